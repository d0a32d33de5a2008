//! `CounterPool`: counters by key.

use std::borrow::Cow;
use std::fmt;

use kube::{CustomResource, KubeSchema};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::common::ServiceSpec;
use super::rules;
use super::status::ServiceStatus;

/// Counters by key: increments in, sums out.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "shardlane.dev",
    version = "v1alpha1",
    kind = "CounterPool",
    plural = "counterpools",
    shortname = "counters",
    category = "shardlane",
    namespaced,
    status = "ServiceStatus",
    derive = "PartialEq",
    annotation("helm.sh/resource-policy", "keep"),
    doc = "Counters by key: increments in, sums out.",
    scale(
        spec_replicas_path = ".spec.partitions",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(name = "Partitions", type_ = "integer", json_path = ".spec.partitions"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.ready"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = rules::short_name(),
    validation = rules::plain_name(),
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("duration(self.flushInterval) >= duration('10ms') && duration(self.flushInterval) <= duration('5s')")
        .message("flushInterval is from 10ms to 5s, as 250ms or 1s: a value is never staler than ten seconds"),
    validation = Rule::new("self.outcomeRetentionHours == 0 || self.idempotencyWindowHours <= self.outcomeRetentionHours")
        .message("idempotencyWindowHours is at most outcomeRetentionHours: a retry is known by the outcome that is kept"),
    validation = rules::same_topics(),
)]
pub struct CounterPoolSpec {
    /// What every kind has.
    #[serde(flatten)]
    pub service: ServiceSpec,
    /// How long a worker gathers increments before it writes their sums, as `250ms` or `1s`: 10ms to 5s.
    #[serde(default)]
    pub flush_interval: FlushInterval,
    /// The most keys that a worker holds in memory; with more, it writes before the interval is over.
    #[serde(default = "default_max_pending_keys")]
    #[schemars(range(min = 1000, max = 1_000_000))]
    pub max_pending_keys: u32,
    /// How long, in hours, an increment with an `Idempotency-Key` is known again, so that it counts once. At most
    /// `outcomeRetentionHours`, unless that is 0.
    #[serde(default = "default_idempotency_window_hours")]
    #[schemars(range(min = 1, max = 8760))]
    pub idempotency_window_hours: u32,
    /// Names of the topics.
    #[serde(default)]
    pub topics: CounterTopics,
}

fn default_max_pending_keys() -> u32 {
    100_000
}

fn default_idempotency_window_hours() -> u32 {
    24
}

/// A time from 10 milliseconds to 5 seconds, written in whole milliseconds or seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Cow<'_, str>", into = "String")]
pub struct FlushInterval {
    millis: u32,
}

impl FlushInterval {
    const RANGE: std::ops::RangeInclusive<u32> = 10..=5_000;

    /// In milliseconds.
    pub fn millis(self) -> u32 {
        self.millis
    }
}

impl Default for FlushInterval {
    fn default() -> Self {
        Self { millis: 1_000 }
    }
}

/// A text that is no such time.
#[derive(Debug, thiserror::Error)]
#[error("flushInterval is from 10ms to 5s, in whole milliseconds or seconds, as 250ms or 1s, and not {0:?}")]
pub struct NoInterval(String);

impl TryFrom<Cow<'_, str>> for FlushInterval {
    type Error = NoInterval;

    fn try_from(text: Cow<'_, str>) -> Result<Self, NoInterval> {
        let (number, unit) =
            text.strip_suffix("ms").map_or((text.strip_suffix('s'), 1_000), |number| (Some(number), 1));
        let digits = number.filter(|number| number.bytes().all(|byte| byte.is_ascii_digit()));
        let millis = digits.and_then(|digits| digits.parse::<u32>().ok()?.checked_mul(unit));
        let millis = millis.filter(|millis| Self::RANGE.contains(millis));
        millis.map(|millis| Self { millis }).ok_or_else(|| NoInterval(text.into_owned()))
    }
}

impl fmt::Display for FlushInterval {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.millis % 1_000 {
            0 => write!(formatter, "{}s", self.millis / 1_000),
            _ => write!(formatter, "{}ms", self.millis),
        }
    }
}

impl From<FlushInterval> for String {
    fn from(interval: FlushInterval) -> Self {
        interval.to_string()
    }
}

impl JsonSchema for FlushInterval {
    fn schema_name() -> Cow<'static, str> {
        "FlushInterval".into()
    }

    fn inline_schema() -> bool {
        true
    }

    /// The least that a rule can count with; the rule has the range.
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "maxLength": 6, "pattern": "^[0-9]{1,4}(ms|s)$" })
    }
}

/// Names of the topics. Each consumed topic has a dead-letter topic of its name and `.dlq`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CounterTopics {
    /// Increments, keyed by the counter's key.
    #[serde(default = "default_increments")]
    #[schemars(regex(pattern = r"^[a-zA-Z0-9._-]{1,200}$"))]
    pub increments: String,
}

impl Default for CounterTopics {
    fn default() -> Self {
        Self { increments: default_increments() }
    }
}

fn default_increments() -> String {
    "counter.increments".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<u32, String> {
        let interval: Result<FlushInterval, _> = serde_json::from_value(text.into());
        interval.map(FlushInterval::millis).map_err(|error| error.to_string())
    }

    #[test]
    fn an_interval_is_read_and_written_in_seconds_or_milliseconds() {
        for (text, millis) in [("10ms", 10), ("250ms", 250), ("1500ms", 1_500), ("1s", 1_000), ("5s", 5_000)] {
            assert_eq!(read(text), Ok(millis), "{text}");
            assert_eq!(FlushInterval { millis }.to_string(), text);
        }
        assert_eq!((read("1000ms"), read("0250ms")), (Ok(1_000), Ok(250)));
    }

    #[test]
    fn any_other_interval_is_refused_with_what_may_stand_there() {
        let bad =
            ["", "s", "ms", "1", "9ms", "5001ms", "6s", "0s", "-1s", "+1s", "0.5s", "1 s", "1m", "4294968s", "1S"];
        for text in bad {
            let error = read(text).unwrap_err();
            assert!(error.contains("from 10ms to 5s") && error.contains(&format!("{text:?}")), "{text}: {error}");
        }
    }
}
