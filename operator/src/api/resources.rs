//! What containers ask for: as Kubernetes has it, but with a quantity that the API server checks.

use std::borrow::Cow;
use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ResourceRequirements;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// Requests and limits of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Resources {
    /// What it is sure to get.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub requests: BTreeMap<String, Amount>,
    /// What it may not exceed.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub limits: BTreeMap<String, Amount>,
}

impl Resources {
    /// As Kubernetes has them.
    pub fn requirements(&self) -> ResourceRequirements {
        let quantities = |amounts: &BTreeMap<String, Amount>| {
            let quantity = |(name, amount): (&String, &Amount)| (name.clone(), Quantity(amount.0.clone()));
            (!amounts.is_empty()).then(|| amounts.iter().map(quantity).collect())
        };
        ResourceRequirements {
            requests: quantities(&self.requests),
            limits: quantities(&self.limits),
            ..ResourceRequirements::default()
        }
    }
}

/// A quantity, e.g. `500m`, `2` or `1Gi`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Amount(pub String);

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Number(u64),
            Text(String),
        }
        Ok(match Form::deserialize(deserializer)? {
            Form::Number(number) => Self(number.to_string()),
            Form::Text(text) => Self(text),
        })
    }
}

impl JsonSchema for Amount {
    fn schema_name() -> Cow<'static, str> {
        "Amount".into()
    }

    fn inline_schema() -> bool {
        true
    }

    /// The pattern is that of Kubernetes' own quantities, without a sign.
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A quantity, e.g. `500m`, `2` or `1Gi`.",
            "x-kubernetes-int-or-string": true,
            "anyOf": [{ "type": "integer" }, { "type": "string" }],
            "pattern": r"^([0-9]+(\.[0-9]*)?|\.[0-9]+)(([KMGTPE]i)|[numkMGTPE]|([eE][-+]?[0-9]+))?$",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_texts_are_amounts() {
        let written = r#"{ "requests": { "cpu": 2, "memory": "64Mi" } }"#;
        let resources: Resources = serde_json::from_str(written).unwrap();
        let expected = r#"{"requests":{"cpu":"2","memory":"64Mi"}}"#;
        assert_eq!(serde_json::to_string(&resources.requirements()).unwrap(), expected);
    }
}
