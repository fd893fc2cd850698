//! Counts what is on its way to a child: actix does not say how long a mailbox is.
//!
//! Every message to a generation is sent in a letter, which counts from when it is sent until it is opened, or thrown away
//! with its mailbox or with the caller who still waits for room in that. A new generation begins at 0.

use actix::dev::{MessageResponse, OneshotSender, Request};
use actix::{Actor, Addr, Context, Handler, Message};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The door to one generation.
#[derive(Debug)]
pub struct ChildAddr<A: Actor> {
    addr: Addr<A>,
    unopened: Arc<AtomicUsize>,
}

impl<A: Actor> Clone for ChildAddr<A> {
    fn clone(&self) -> ChildAddr<A> {
        ChildAddr { addr: self.addr.clone(), unopened: self.unopened.clone() }
    }
}

impl<A: Actor<Context = Context<A>>> ChildAddr<A> {
    pub(super) fn new(addr: Addr<A>) -> ChildAddr<A> {
        ChildAddr { addr, unopened: Arc::default() }
    }

    pub fn send<M>(&self, message: M) -> Request<A, Letter<M>>
    where
        A: Handler<Letter<M>>,
        M: Message + Send + 'static,
        M::Result: Send,
    {
        self.unopened.fetch_add(1, Ordering::AcqRel);
        self.addr.send(Letter { message, _seal: Seal(self.unopened.clone()) })
    }

    /// Letters that it has not opened.
    pub fn depth(&self) -> usize {
        self.unopened.load(Ordering::Acquire)
    }
}

/// A message on its way.
#[derive(Debug)]
pub struct Letter<M> {
    message: M,
    _seal: Seal,
}

impl<M> Letter<M> {
    /// From here on it is handled.
    pub fn open(self) -> M {
        self.message
    }
}

impl<M: Message> Message for Letter<M> {
    type Result = M::Result;
}

/// Broken when its letter is opened or thrown away.
#[derive(Debug)]
struct Seal(Arc<AtomicUsize>);

impl Drop for Seal {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// What a message is answered with, as the answer to its letter.
pub struct Reply<A: Handler<M>, M: Message>(pub A::Result);

impl<A: Handler<M>, M: Message> MessageResponse<A, Letter<M>> for Reply<A, M> {
    fn handle(self, context: &mut A::Context, caller: Option<OneshotSender<M::Result>>) {
        self.0.handle(context, caller);
    }
}

#[cfg(test)]
mod tests {
    use crate::supervisor::{Child, Misbehave, Ping, supervised_child};
    use actix::{Actor, Context};
    use futures_util::FutureExt;
    use futures_util::future::join_all;
    use std::sync::Arc;
    use tokio::sync::oneshot;

    struct Idler;

    impl Actor for Idler {
        type Context = Context<Self>;
    }

    supervised_child!(Idler);

    #[test]
    fn what_waits_for_a_child_is_counted_until_it_is_handled_or_goes_with_it() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = Arc::new(runtime.expect("a runtime"));
        let (child, found) = Child::new("idler", runtime.clone(), Arc::new(|_| Idler));
        actix::System::new().block_on(async move {
            let idler = child.launch(1, Box::new(|_| async {}.boxed()));
            let first = found.addr().expect("it was launched");
            first.send(Ping).await.expect("it answers");
            assert_eq!(first.depth(), 0);
            first.send(Misbehave::Hang).await.expect("it hangs from then on");
            let more_than_it_takes: Vec<_> = (0..100).map(|_| first.send(Ping)).collect();
            assert_eq!((first.depth(), idler.mailbox_depth()), (100, 100));
            drop(idler);
            let answers = join_all(more_than_it_takes).await;
            assert!(answers.iter().all(Result::is_err), "nobody has heard them");
            assert_eq!(first.depth(), 0);

            let (tell, ended) = oneshot::channel();
            let on_exit = Box::new(move |exit| async move { drop(tell.send(exit)) }.boxed());
            let idler = child.launch(2, on_exit);
            let second = found.addr().expect("it was launched");
            assert_eq!(idler.mailbox_depth(), 0, "a new generation has had no letters");
            let last_words = second.send(Misbehave::Panic);
            let unheard: Vec<_> = (0..3).map(|_| second.send(Ping)).collect();
            assert!(last_words.await.is_err() && join_all(unheard).await.iter().all(Result::is_err));
            assert_eq!(ended.await.expect("its end").word(), "panic");
            assert_eq!((idler.mailbox_depth(), first.depth()), (0, 0));
        });
    }
}
