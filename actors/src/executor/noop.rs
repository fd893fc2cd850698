//! The task that does nothing and succeeds: for load tests, and to see that everything around a run works.

use super::{Assignment, Executor, Outcome, Output, Stop};
use futures_util::future::BoxFuture;
use tokio::sync::watch;

#[derive(Debug, Clone, Copy, Default)]
pub struct Noop;

impl Executor for Noop {
    fn carry(
        &self,
        _assignment: Assignment,
        stop: watch::Receiver<Option<Stop>>,
        _output: Output,
    ) -> BoxFuture<'static, Outcome> {
        let asked = *stop.borrow();
        Box::pin(async move { asked.map_or(Outcome::Succeeded { output: None }, Stop::outcome) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use storage::model::{Epoch, RunId};
    use tokio::sync::mpsc;

    #[tokio::test]
    async fn it_succeeds_unless_it_was_stopped_before() {
        for (asked, outcome) in [
            (None, Outcome::Succeeded { output: None }),
            (Some(Stop::Cancelled), Outcome::Cancelled),
            (Some(Stop::TimedOut), Outcome::TimedOut),
            (Some(Stop::Lost), Outcome::Lost),
        ] {
            let assignment = Assignment {
                run: RunId::from_text("run_1"),
                env: "default/dev".to_owned(),
                task: "noop".to_owned(),
                attempt: 1,
                epoch: Epoch::from_number(1),
                payload: "null".to_owned(),
                session: None,
                trace: None,
                max_duration: None,
                start_by: std::time::Duration::MAX,
            };
            let (_asker, stop) = watch::channel(asked);
            let (sender, mut chunks) = mpsc::channel(1);
            assert_eq!(Noop.carry(assignment, stop, Output::new(1, sender)).await, outcome);
            assert_eq!(chunks.recv().await, None, "it says nothing");
        }
    }
}
