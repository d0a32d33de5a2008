.PHONY: up down status test bench crds help

help: ## What there is
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

up: ## A real cluster with everything, and a service that answers
	@e2e/cluster/cluster up

down: ## Nothing is left of it
	@e2e/cluster/cluster down

status: ## What runs
	@e2e/cluster/cluster status

test: ## Everything that must hold, on real servers and a real cluster
	@e2e/test

bench: ## How fast it is, beside the barest programs that do the same work
	@e2e/bench/run

crds: ## The CRDs and their reference, from the operator's types
	@cargo run --quiet -p shardlane-operator -- crds crds docs/api-reference.md
