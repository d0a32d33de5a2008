//! Work on a thread of its own, which waits for its own sockets and for nothing else.
//!
//! Whichever thread of a shared runtime polls the sockets also runs tasks, and while one of these computes for some
//! milliseconds (a relay puts thousands of outcomes into words), nobody notices what has arrived for all others.

use std::io;

use tokio::runtime::Builder;
use tokio::sync::oneshot;

/// Starts a thread that makes a future and runs it to its end, which the receiver gets; an error there means that it panicked.
/// It goes on when nobody listens any more.
pub fn apart<T, F>(name: &str, work: impl FnOnce() -> F + Send + 'static) -> io::Result<oneshot::Receiver<T>>
where
    T: Send + 'static,
    F: Future<Output = T>,
{
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let (sender, receiver) = oneshot::channel();
    let run = move || drop(sender.send(runtime.block_on(work())));
    std::thread::Builder::new().name(name.to_owned()).spawn(run)?;
    Ok(receiver)
}
