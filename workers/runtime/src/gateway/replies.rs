//! Waiting for the outcome of a request: the output topic is followed, and whoever waits for a key and an id is told.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use rdkafka::error::KafkaResult;
use shardlane_config::{ServiceConfig, TopicConfig};
use tokio::sync::oneshot;

use crate::gateway::tail::{Follower, Start, tail};
use crate::health::Health;

/// Key and request id.
type Id = (Vec<u8>, String);

/// Requests that are waited for.
#[derive(Clone, Debug)]
pub struct Replies<T> {
    waiting: Arc<Mutex<HashMap<Id, Vec<oneshot::Sender<T>>>>>,
}

/// One request that is waited for. Dropping it stops waiting.
#[derive(Debug)]
pub struct Waiting<T> {
    replies: Replies<T>,
    id: Id,
    receiver: oneshot::Receiver<T>,
}

impl<T: Clone + Send + 'static> Replies<T> {
    /// Follows a topic from now on; `read` takes the id and the outcome from a value.
    pub fn follow(
        config: &ServiceConfig,
        topic: &TopicConfig,
        health: &Health,
        read: impl Fn(&[u8]) -> Option<(String, T)> + Send + 'static,
    ) -> KafkaResult<Self> {
        let replies = Self { waiting: Arc::default() };
        let told = replies.clone();
        let follower = Follower { kafka: &config.kafka, name: &config.name, part: "replies", health };
        tail(follower, topic, Start::End, move |record| {
            let Some((key, value)) = record.key.zip(record.value) else { return };
            if let Some((request_id, outcome)) = read(value) {
                told.tell((key.to_vec(), request_id), &outcome);
            }
        })?;
        Ok(replies)
    }

    /// Begins to wait; to be called before the request is sent, so that no outcome is missed.
    pub fn wait_for(&self, key: &[u8], request_id: &str) -> Waiting<T> {
        let (sender, receiver) = oneshot::channel();
        let id = (key.to_vec(), request_id.to_owned());
        if let Ok(mut waiting) = self.waiting.lock() {
            waiting.entry(id.clone()).or_default().push(sender);
        }
        Waiting { replies: self.clone(), id, receiver }
    }

    fn tell(&self, id: Id, outcome: &T) {
        let waiters = self.waiting.lock().ok().and_then(|mut waiting| waiting.remove(&id));
        for waiter in waiters.into_iter().flatten() {
            // Whoever has stopped waiting does not mind.
            let _ = waiter.send(outcome.clone());
        }
    }
}

impl<T> Waiting<T> {
    /// The outcome, if it comes within this time.
    pub async fn outcome(mut self, patience: std::time::Duration) -> Option<T> {
        tokio::time::timeout(patience, &mut self.receiver).await.ok()?.ok()
    }
}

impl<T> Drop for Waiting<T> {
    fn drop(&mut self) {
        self.receiver.close();
        if let Ok(mut waiting) = self.replies.waiting.lock()
            && let Some(waiters) = waiting.get_mut(&self.id)
        {
            waiters.retain(|waiter| !waiter.is_closed());
            if waiters.is_empty() {
                waiting.remove(&self.id);
            }
        }
    }
}
