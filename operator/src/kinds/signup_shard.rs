//! What is peculiar to SignupShard.

use serde::Serialize;

use crate::api::common::ServiceSpec;
use crate::api::signup_shard::{CanonicalForm, SignupShard};
use crate::api::status::ServiceStatus;
use crate::build::topics::{Flow, ServiceTopic, dead_letters, keyed};
use crate::images::Images;
use crate::kind::ServiceKind;

/// What the workers read, in the workers' words.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Settings {
    usernames: Usernames,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Usernames {
    canonical_form: CanonicalForm,
}

impl ServiceKind for SignupShard {
    const PROGRAM: &'static str = "signup";

    fn service(&self) -> &ServiceSpec {
        &self.spec.service
    }

    fn status(&self) -> Option<&ServiceStatus> {
        self.status.as_ref()
    }

    fn topics(&self) -> Vec<ServiceTopic> {
        let slots = self.spec.service.max_partitions;
        let request = keyed("request", &self.spec.topics.request, slots, Flow::IN);
        let dead = dead_letters(&request);
        vec![request, keyed("response", &self.spec.topics.response, slots, Flow::OUT), dead]
    }

    fn settings(&self) -> serde_yaml::Result<serde_yaml::Value> {
        let usernames = Usernames { canonical_form: self.spec.usernames.canonical_form };
        serde_yaml::to_value(Settings { usernames })
    }

    fn default_image(images: &Images) -> &str {
        &images.signup_image
    }
}
