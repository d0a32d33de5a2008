//! What is known of a move at one moment: pure, from the resource and from what the mover says.

use kube::ResourceExt;
use kube::api::DynamicObject;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use shardlane_operator::api::status::{ReshardStatus, ServiceStatus};

/// A service and its move.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Look {
    /// The service's kind.
    pub kind: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// How many partitions its spec asks for.
    pub wanted: u32,
    /// How many there are.
    pub partitions: u32,
    /// Whether the operator has seen the spec as it is now.
    pub current: bool,
    /// Whether the operator changes nothing.
    pub paused: bool,
    /// What somebody should look at.
    pub degraded: Option<Reason>,
    /// What stands in the way of being ready.
    pub unready: Option<Reason>,
    /// What the operator says of the move; `None` if nothing moves.
    pub reshard: Option<ReshardStatus>,
    /// What the mover says; `None` while there is none, or it does not answer.
    pub mover: Option<MoverStatus>,
}

/// A reason and its message, as in a condition.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Reason {
    /// In a word.
    pub reason: String,
    /// For a person.
    pub message: String,
}

/// A mover's `/status`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MoverStatus {
    /// What it waits for, if it does.
    pub waiting_for: Option<String>,
    /// How far it is.
    pub reshard: Option<Run>,
}

/// How far a mover is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Run {
    /// What it does: `planning`, `moving` or `cleaning`.
    pub phase: String,
    /// Slots that it has moved or has yet to.
    pub slots_total: u32,
    /// Slots that it has moved.
    pub slots_moved: u32,
    /// Of those, slots that are deleted where they were.
    pub slots_cleaned: u32,
    /// Rows that it has copied.
    pub rows: u64,
    /// Rows that it copies in a second.
    pub rows_per_second: f64,
    /// Groups of slots that move now.
    pub groups: Vec<Group>,
    /// The longest time, in milliseconds, for which slots stood still.
    pub longest_pause_ms: Option<u64>,
    /// What went wrong and is tried again.
    pub problem: Option<Reason>,
}

/// Slots that move together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Group {
    /// The partition that they leave.
    pub from: u32,
    /// The partition that they come to.
    pub to: u32,
    /// As ranges: `5-7`.
    pub slots: String,
    /// How far they are.
    pub step: String,
    /// Rows that have been copied.
    pub rows: u64,
}

/// Where a service is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It has the partitions that it should have, and nothing moves.
    Settled,
    /// The operator has not seen the last change.
    Unseen,
    /// It moves, or is made ready for it.
    Moving,
    /// It would move, and is paused: nothing happens before somebody acts.
    Paused,
    /// It does not begin, and why. It will once the cause is gone.
    Held(String),
}

impl Look {
    /// What the resource says.
    pub fn of(kind: &str, object: &DynamicObject) -> Self {
        let field = |pointer: &str| object.data.pointer(pointer);
        let status: ServiceStatus =
            field("/status").and_then(|status| serde_json::from_value(status.clone()).ok()).unwrap_or_default();
        let condition = |type_: &str, holds: &str| {
            let found = status.conditions.iter().find(|c| c.type_ == type_ && c.status == holds)?;
            Some(Reason { reason: found.reason.clone(), message: found.message.clone() })
        };
        let wanted = field("/spec/partitions").and_then(Value::as_u64).and_then(|wanted| u32::try_from(wanted).ok());
        Self {
            kind: kind.to_owned(),
            namespace: object.namespace().unwrap_or_default(),
            name: object.name_any(),
            wanted: wanted.unwrap_or(status.replicas),
            partitions: status.replicas,
            current: status.observed_generation == object.metadata.generation,
            paused: field("/spec/paused").and_then(Value::as_bool).unwrap_or(false),
            degraded: condition("Degraded", "True"),
            unready: condition("Ready", "False"),
            reshard: status.reshard,
            mover: None,
        }
    }

    /// Where it is.
    pub fn state(&self) -> State {
        let settled = self.reshard.is_none() && self.wanted == self.partitions;
        match &self.reshard {
            _ if !self.current => State::Unseen,
            _ if settled => State::Settled,
            _ if self.paused => State::Paused,
            Some(_) => State::Moving,
            None => {
                let why = self.degraded.as_ref().or(self.unready.as_ref());
                let why = why.map_or_else(|| "the operator has not begun".to_owned(), Reason::to_string);
                State::Held(why)
            }
        }
    }

    /// How far the mover is, if it says.
    pub fn run(&self) -> Option<&Run> {
        self.mover.as_ref()?.reshard.as_ref()
    }

    /// Slots that have moved, and all that are to: as the mover has it, else as the operator heard it last.
    pub fn slots(&self) -> (u32, u32) {
        let told = self.reshard.as_ref().map(|told| (told.slots_moved, told.slots_total)).unwrap_or_default();
        self.run().map_or(told, |run| (run.slots_moved, run.slots_total))
    }

    /// In a word, what is done.
    pub fn phase(&self) -> String {
        let told = self.reshard.as_ref().map(|told| format!("{:?}", told.phase).to_lowercase()).unwrap_or_default();
        self.run().map(|run| run.phase.clone()).filter(|phase| !phase.is_empty()).unwrap_or(told)
    }

    /// What went wrong: as the mover says it, else as the operator does.
    pub fn problem(&self) -> Option<&Reason> {
        self.run().and_then(|run| run.problem.as_ref()).or(self.degraded.as_ref())
    }

    /// For scripts.
    pub fn to_json(&self) -> Value {
        let (state, why) = match self.state() {
            State::Settled => ("settled", None),
            State::Unseen => ("unseen", None),
            State::Moving => ("moving", None),
            State::Paused => ("paused", None),
            State::Held(why) => ("held", Some(why)),
        };
        json!({
            "kind": self.kind, "namespace": self.namespace, "name": self.name,
            "state": state, "why": why, "wanted": self.wanted, "partitions": self.partitions,
            "degraded": self.degraded, "reshard": self.reshard, "mover": self.mover,
        })
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.reason, self.message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(mut changed: Value) -> DynamicObject {
        let mut object = json!({
            "apiVersion": "shardlane.dev/v1alpha1", "kind": "SignupShard",
            "metadata": { "name": "demo", "namespace": "shop", "generation": 4 },
            "spec": { "partitions": 3 },
            "status": { "observedGeneration": 4, "replicas": 3 },
        });
        for (path, value) in changed.as_object_mut().unwrap() {
            let (part, field) = path.split_once('.').unwrap();
            object[part][field] = value.take();
        }
        serde_json::from_value(object).unwrap()
    }

    fn state(changed: Value) -> State {
        Look::of("SignupShard", &object(changed)).state()
    }

    #[test]
    fn a_service_is_settled_only_once_the_operator_has_done_what_was_asked() {
        let reshard =
            json!({ "from": 2, "to": 3, "slotsTotal": 8, "slotsMoved": 8, "phase": "Cleaning", "message": "" });
        assert_eq!(state(json!({})), State::Settled);
        assert_eq!(state(json!({ "metadata.generation": 5 })), State::Unseen);
        assert_eq!(state(json!({ "metadata.generation": 5, "status.reshard": reshard })), State::Unseen);
        assert_eq!(state(json!({ "status.reshard": reshard })), State::Moving);
        assert_eq!(state(json!({ "status.reshard": reshard, "spec.paused": true })), State::Paused);
        assert_eq!(state(json!({ "spec.partitions": 4, "spec.paused": true })), State::Paused);
        assert_eq!(state(json!({ "spec.paused": true })), State::Settled);
    }

    #[test]
    fn a_move_that_does_not_begin_says_why() {
        let condition = |type_: &str, status: &str| {
            json!({ "type": type_, "status": status, "reason": "SecretMissing", "message": "there is no Secret c",
                    "lastTransitionTime": "2026-01-01T00:00:00Z" })
        };
        let held = |conditions: Value| state(json!({ "spec.partitions": 4, "status.conditions": conditions }));
        let why = State::Held("SecretMissing: there is no Secret c".to_owned());
        assert_eq!(held(json!([condition("Ready", "True"), condition("Degraded", "True")])), why);
        assert_eq!(held(json!([condition("Ready", "False"), condition("Degraded", "False")])), why);
        assert_eq!(held(json!([])), State::Held("the operator has not begun".to_owned()));
    }

    #[test]
    fn the_mover_is_asked_before_the_operator_and_may_be_older_or_newer() {
        let reshard =
            json!({ "from": 2, "to": 3, "slotsTotal": 16, "slotsMoved": 4, "phase": "Moving", "message": "m" });
        let mut look = Look::of("SignupShard", &object(json!({ "status.reshard": reshard })));
        assert_eq!((look.slots(), &*look.phase()), ((4, 16), "moving"));
        let said = json!({ "ready": true, "slots": [], "reshard": { "slotsTotal": 16, "slotsMoved": 5, "more": 1 } });
        look.mover = Some(serde_json::from_value(said).unwrap());
        assert_eq!((look.slots(), &*look.phase()), ((5, 16), "moving"));
        look.mover = Some(MoverStatus { waiting_for: Some("postgres".to_owned()), reshard: None });
        assert_eq!(look.slots(), (4, 16));
        let shown = look.to_json();
        assert_eq!(shown.pointer("/state"), Some(&json!("moving")));
        assert_eq!(shown.pointer("/reshard/slotsMoved"), Some(&json!(4)));
        assert_eq!(shown.pointer("/mover/waitingFor"), Some(&json!("postgres")));
    }
}
