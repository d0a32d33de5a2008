//! One flight for many: who asks what another is just finding out waits for that.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

/// What is being found out, by key.
#[derive(Debug)]
pub struct Flights<T> {
    under_way: Mutex<HashMap<String, watch::Receiver<Option<T>>>>,
}

/// Where a flight tells what it has found. Until this is dropped, whoever asks for its key is told that, unless the key was forgotten.
#[derive(Debug)]
pub struct Landing<T> {
    flights: Arc<Flights<T>>,
    key: String,
    told: watch::Sender<Option<T>>,
}

impl<T> Default for Flights<T> {
    fn default() -> Self {
        Self { under_way: Mutex::default() }
    }
}

impl<T: Clone + Send + Sync + 'static> Flights<T> {
    /// Starts a flight, or joins the one that is under way. It goes on when whoever started it goes away. Gives whether it was joined, and
    /// what it has found: nothing if it ended without a word.
    pub async fn join<F>(self: &Arc<Self>, key: &str, fly: impl FnOnce(Landing<T>) -> F) -> (bool, Option<T>)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (joined, mut told) = self.board(key, fly);
        let found = told.wait_for(Option::is_some).await.ok().and_then(|found| found.clone());
        (joined, found)
    }

    fn board<F>(self: &Arc<Self>, key: &str, fly: impl FnOnce(Landing<T>) -> F) -> (bool, watch::Receiver<Option<T>>)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut under_way = self.lock();
        if let Some(told) = under_way.get(key) {
            return (true, told.clone());
        }
        let (sender, receiver) = watch::channel(None);
        under_way.insert(key.to_owned(), receiver.clone());
        drop(under_way);
        tokio::spawn(fly(Landing { flights: Arc::clone(self), key: key.to_owned(), told: sender }));
        (false, receiver)
    }
}

impl<T> Flights<T> {
    /// Whoever asks for this key from now on is not told what was found out before.
    pub fn forget(&self, key: &str) {
        self.lock().remove(key);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, watch::Receiver<Option<T>>>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Landing<T> {
    /// Tells everybody.
    pub fn tell(&self, found: T) {
        self.told.send_replace(Some(found));
    }
}

impl<T> Drop for Landing<T> {
    fn drop(&mut self) {
        let mut under_way = self.flights.lock();
        // Once it is forgotten, another may fly under its key.
        if under_way.get(&self.key).is_some_and(|known| known.same_channel(&self.told.subscribe())) {
            under_way.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use futures::future::join_all;
    use tokio::sync::Notify;

    use super::*;

    #[tokio::test]
    async fn who_asks_meanwhile_is_told_the_same_and_who_asks_later_is_not() {
        let (flights, flown, go) = (Arc::new(Flights::default()), Arc::new(AtomicU32::new(0)), Arc::new(Notify::new()));
        let ask = || {
            let (flights, flown, go) = (Arc::clone(&flights), Arc::clone(&flown), Arc::clone(&go));
            async move {
                let fly = |landing: Landing<u32>| async move {
                    let number = flown.fetch_add(1, Ordering::Relaxed);
                    go.notified().await;
                    landing.tell(number);
                };
                flights.join("a", fly).await
            }
        };
        // Who started it goes away, and it goes on.
        let first = tokio::spawn(ask());
        while flown.load(Ordering::Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
        first.abort();
        let others = tokio::spawn(join_all((0..10).map(|_| ask())));
        tokio::task::yield_now().await;
        go.notify_one();
        assert!(others.await.unwrap().iter().all(|told| *told == (true, Some(0))));
        go.notify_one();
        assert_eq!(ask().await, (false, Some(1)));
    }

    #[tokio::test]
    async fn what_was_forgotten_is_found_out_anew_and_its_end_ends_nobody_elses() {
        let (flights, end) = (Arc::new(Flights::default()), Arc::new(Notify::new()));
        let ask = |number: u32| {
            let (flights, end) = (Arc::clone(&flights), Arc::clone(&end));
            async move {
                let fly = |landing: Landing<u32>| async move {
                    landing.tell(number);
                    end.notified().await;
                };
                flights.join("a", fly).await
            }
        };
        assert_eq!((ask(1).await, ask(2).await), ((false, Some(1)), (true, Some(1))));
        flights.forget("a");
        assert_eq!(ask(3).await, (false, Some(3)));
        // The first one ends.
        end.notify_one();
        tokio::task::yield_now().await;
        assert_eq!(ask(4).await, (true, Some(3)));
    }

    #[tokio::test]
    async fn a_flight_that_ends_without_a_word_leaves_nobody_waiting() {
        let flights: Arc<Flights<u32>> = Arc::default();
        assert_eq!(flights.join("a", async |landing| drop(landing)).await, (false, None));
        assert!(flights.lock().is_empty());
    }
}
