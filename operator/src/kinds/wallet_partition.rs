//! What is peculiar to WalletPartition.

use serde::Serialize;

use crate::api::common::ServiceSpec;
use crate::api::status::ServiceStatus;
use crate::api::wallet_partition::{AccountsSpec, AuditSpec, WalletPartition};
use crate::build::names::Component;
use crate::build::topics::{Flow, ServiceTopic, dead_letters, keyed};
use crate::images::Images;
use crate::kind::{ServiceKind, StatelessLoop};

/// What all processes read: as the spec has it, which is in the workers' words.
#[derive(Serialize)]
struct Settings<'a> {
    accounts: &'a AccountsSpec,
    audit: &'a AuditSpec,
}

/// What amounts mean that are in the shards already.
#[derive(Serialize)]
struct Fixed<'a> {
    currency: &'a str,
}

/// From gateways to what makes payments of them.
const REQUESTS: Flow = Flow { writers: &[Component::Gateway], readers: &[Component::Stateless] };
/// To workers, from everyone: an account's worker pays into others'.
const PAYMENTS: Flow =
    Flow { writers: &[Component::Gateway, Component::Stateless, Component::Worker], readers: &[Component::Worker] };

impl ServiceKind for WalletPartition {
    const PROGRAM: &'static str = "wallet";

    fn service(&self) -> &ServiceSpec {
        &self.spec.service
    }

    fn status(&self) -> Option<&ServiceStatus> {
        self.status.as_ref()
    }

    fn topics(&self) -> Vec<ServiceTopic> {
        let slots = self.spec.service.max_partitions;
        let requests = keyed("transfer_request", &self.spec.topics.transfer_request, slots, REQUESTS);
        let payments = keyed("payment", &self.spec.topics.payment, slots, PAYMENTS);
        let dead = [dead_letters(&requests), dead_letters(&payments)];
        [requests, payments].into_iter().chain(dead).collect()
    }

    fn settings(&self) -> serde_yaml::Result<serde_yaml::Value> {
        serde_yaml::to_value(Settings { accounts: &self.spec.accounts, audit: &self.spec.audit })
    }

    fn fixed_settings(&self) -> serde_yaml::Result<serde_yaml::Value> {
        serde_yaml::to_value(Fixed { currency: &self.spec.accounts.currency })
    }

    fn stateless(&self) -> Option<StatelessLoop<'_>> {
        let payment = &self.spec.payment;
        Some(StatelessLoop {
            name: "paymentd",
            replicas: payment.replicas,
            resources: payment.resources.as_ref(),
            essential: true,
        })
    }

    fn default_image(images: &Images) -> &str {
        &images.wallet_image
    }
}
