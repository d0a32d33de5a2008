//! Waiting for what a worker decides by asking it.

use std::time::{Duration, Instant};

/// The first pause between two looks; each is twice as long, up to [`LONGEST_PAUSE`].
const PAUSE: Duration = Duration::from_millis(4);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

/// Looks again and again until there is something to see. `None`: it takes longer than `patience`.
pub async fn decided<T, F>(patience: Duration, mut look: impl FnMut() -> F) -> Option<T>
where
    F: Future<Output = Option<T>>,
{
    let began = Instant::now();
    let mut pause = PAUSE;
    while began.elapsed() < patience {
        tokio::time::sleep(pause).await;
        pause = LONGEST_PAUSE.min(pause * 2);
        if let Some(seen) = look().await {
            return Some(seen);
        }
    }
    None
}
