//! Rules of the API server's that hold for every kind, where the derive macro would have each kind repeat them.
//! Those of the common spec are with it.

use kube::core::Rule;

/// Of the resource: its name is short enough.
pub fn short_name() -> Rule {
    Rule::new("size(self.metadata.name) <= 40")
        .message("the name may have at most 40 characters: the names of pods and shards begin with it")
}

/// Of the resource: its name is one that a Service may have.
pub fn plain_name() -> Rule {
    Rule::new("self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')").message(
        "the name begins with a letter and has only lower-case letters, digits and hyphens: Services are named after \
         it",
    )
}

/// Of a spec: its topics are for ever.
pub fn same_topics() -> Rule {
    Rule::new("self.topics == oldSelf.topics")
        .message("topics never change: where each slot stands is an offset in them; make a new service to use others")
}
