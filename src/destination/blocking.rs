//! Work that blocks (files, SQLite, compression), kept off the threads that drive the network.

use tokio::sync::{mpsc, oneshot};

use crate::error::{Error, ErrorKind, Result};

/// Runs `work` on a thread that may block. Dropping the future does not stop the work.
pub async fn run<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let span = tracing::Span::current();
    match tokio::task::spawn_blocking(move || span.in_scope(work)).await {
        Ok(result) => result,
        Err(e) => Err(broken().source(e)),
    }
}

/// A thread that holds a slice at work and does one job after another on it.
///
/// One thread for all of a slice, not any of a pool: a slice buffers megabytes in many small pieces,
/// and what one thread takes from the allocator and another gives back is slow to be used again.
pub struct Worker<T> {
    jobs: mpsc::Sender<Job<T>>,
    /// A job has failed or was given up, so that it is unknown what is missing.
    gap: bool,
}

type Job<T> = Box<dyn FnOnce(&mut Option<T>) + Send>;

impl<T: Send + 'static> Worker<T> {
    /// Starts a thread with what `make` makes.
    pub async fn start(make: impl FnOnce() -> Result<T> + Send + 'static) -> Result<Self> {
        let (jobs, mut queue) = mpsc::channel::<Job<T>>(1);
        let (made, ready) = oneshot::channel();
        let span = tracing::Span::current();
        std::thread::Builder::new()
            .name("destination".into())
            .spawn(move || {
                let _of = span.entered();
                let mut state = match make() {
                    Ok(state) => Some(state),
                    Err(e) => {
                        // Nobody waits for it when the future was dropped.
                        let _ = made.send(Err(e));
                        return;
                    }
                };
                let _ = made.send(Ok(()));
                while let Some(job) = queue.blocking_recv() {
                    job(&mut state);
                }
            })
            .map_err(|e| Error::destination("could not start a thread for a slice").source(e))?;
        ready.await.map_err(|e| broken().source(e))??;
        Ok(Self { jobs, gap: false })
    }

    /// Does a job. After one that failed, or whose future was dropped, there is no other.
    pub async fn run<R: Send + 'static>(
        &mut self,
        job: impl FnOnce(&mut T) -> Result<R> + Send + 'static,
    ) -> Result<R> {
        if std::mem::replace(&mut self.gap, true) {
            return Err(Error::new(
                ErrorKind::Bug,
                "a slice was used on after a batch of it had failed",
            ));
        }
        let done = self.send(move |state| state.as_mut().map(job)).await?;
        self.gap = false;
        Ok(done)
    }

    /// Does the last job, which takes what the thread holds.
    pub async fn finish<R: Send + 'static>(
        mut self,
        job: impl FnOnce(T) -> Result<R> + Send + 'static,
    ) -> Result<R> {
        self.run(|_| Ok(())).await?;
        self.send(move |state| state.take().map(job)).await
    }

    /// Drops what the thread holds, also after a failed job, and waits for it.
    pub async fn stop(self) {
        // A thread that has ended has dropped it already.
        let all = |state: &mut Option<T>| {
            *state = None;
            Some(Ok(()))
        };
        let _ = self.send(all).await;
    }

    async fn send<R: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Option<T>) -> Option<Result<R>> + Send + 'static,
    ) -> Result<R> {
        let (answer, result) = oneshot::channel();
        let job = Box::new(move |state: &mut Option<T>| {
            let _ = answer.send(job(state));
        });
        if self.jobs.send(job).await.is_err() {
            return Err(broken());
        }
        match result.await {
            Ok(Some(result)) => result,
            Ok(None) => Err(broken()),
            Err(e) => Err(broken().source(e)),
        }
    }
}

fn broken() -> Error {
    Error::new(ErrorKind::Bug, "a destination's worker broke off")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_failed_job_is_the_last() {
        let mut worker = Worker::start(|| Ok(1)).await.unwrap();
        let next = worker.run(|n| {
            *n += 1;
            Ok(*n)
        });
        assert_eq!(next.await.unwrap(), 2);
        let failed: Result<()> = worker.run(|_| Err(Error::destination("full"))).await;
        assert_eq!(failed.unwrap_err().to_string(), "full");
        let after = worker.run(|n| Ok(*n)).await.unwrap_err();
        assert_eq!(after.kind(), ErrorKind::Bug);
        assert_eq!(worker.finish(Ok).await.unwrap_err().kind(), ErrorKind::Bug);
    }

    #[tokio::test]
    async fn the_last_job_takes_all() {
        let worker = Worker::start(|| Ok(String::from("x"))).await.unwrap();
        assert_eq!(worker.finish(Ok).await.unwrap(), "x");
        let none = Worker::<()>::start(|| Err(Error::destination("no"))).await;
        assert_eq!(none.err().unwrap().to_string(), "no");
    }

    #[tokio::test]
    async fn a_panic_is_an_error() {
        let mut worker = Worker::start(|| Ok(())).await.unwrap();
        let e = worker.run::<()>(|()| panic!("boom")).await.unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Bug);
    }
}
