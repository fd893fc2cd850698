//! Starts one generation of a child on an arbiter of its own, and tells how it ended.
//!
//! actix's own `Supervisor` keeps the crashed value and does not survive a panic. Here every generation is
//! built anew by its factory, its task is awaited, and a thread that a hung child blocks is left behind.

use super::mailbox::{ChildAddr, Letter};
use actix::dev::channel;
use actix::{Actor, Addr, Arbiter, AsyncContext, Context, Handler, Message};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use std::sync::Arc;
use tokio::runtime::Runtime;
use tokio::sync::{oneshot, watch};

const MAILBOX: usize = 64;

/// Answered at once by a healthy child.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub struct Ping;

/// Makes a child die on purpose, in one of the ways in which children die.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Message)]
#[rtype(result = "()")]
pub enum Misbehave {
    Panic,
    Stop,
    Hang,
}

impl Misbehave {
    pub fn word(self) -> &'static str {
        match self {
            Misbehave::Panic => "panic",
            Misbehave::Stop => "stop",
            Misbehave::Hang => "hang",
        }
    }

    pub fn from_word(word: &str) -> Option<Misbehave> {
        [Misbehave::Panic, Misbehave::Stop, Misbehave::Hang].into_iter().find(|mode| mode.word() == word)
    }

    /// What every child does when told so.
    pub fn act<A: Actor<Context = Context<A>>>(self, context: &mut Context<A>) {
        match self {
            #[expect(clippy::panic, reason = "a panic is what was asked for")]
            Misbehave::Panic => panic!("killed on purpose"),
            Misbehave::Stop => actix::ActorContext::stop(context),
            Misbehave::Hang => context.wait(actix::fut::wrap_future(std::future::pending::<()>())),
        }
    }
}

/// How a generation ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exit {
    Panicked(String),
    Stopped,
    Hung,
}

impl Exit {
    pub fn word(&self) -> &'static str {
        match self {
            Exit::Panicked(_) => "panic",
            Exit::Stopped => "stop",
            Exit::Hung => "hang",
        }
    }
}

/// Where callers find the current generation; `None` before there is one.
#[derive(Debug)]
pub struct ChildRef<A: Actor>(watch::Receiver<Option<ChildAddr<A>>>);

impl<A: Actor> Clone for ChildRef<A> {
    fn clone(&self) -> ChildRef<A> {
        ChildRef(self.0.clone())
    }
}

impl<A: Actor> ChildRef<A> {
    pub fn addr(&self) -> Option<ChildAddr<A>> {
        self.0.borrow().clone()
    }
}

/// Builds a child's next generation; called with its number, from 1.
pub type Factory<A> = Arc<dyn Fn(u64) -> A + Send + Sync>;

/// Called once, when the generation has ended by itself.
pub type OnExit = Box<dyn FnOnce(Exit) -> BoxFuture<'static, ()> + Send>;

/// A running generation.
pub struct Running {
    arbiter: Arbiter,
    abort: Option<oneshot::Sender<()>>,
    ping: Box<dyn Fn() -> BoxFuture<'static, bool> + Send>,
    misbehave: Box<dyn Fn(Misbehave) -> BoxFuture<'static, ()> + Send>,
    depth: Box<dyn Fn() -> usize + Send>,
}

impl Running {
    /// Resolves to true when the child has answered, false when it is dead.
    pub fn ping(&self) -> BoxFuture<'static, bool> {
        (self.ping)()
    }

    pub fn misbehave(&self, mode: Misbehave) -> BoxFuture<'static, ()> {
        (self.misbehave)(mode)
    }

    /// Messages that it has not begun to handle.
    pub fn mailbox_depth(&self) -> usize {
        (self.depth)()
    }
}

impl Drop for Running {
    /// Ends the generation's task and lets its thread go; a blocked thread ends when its handler returns.
    fn drop(&mut self) {
        if let Some(abort) = self.abort.take() {
            let _ = abort.send(());
        }
        self.arbiter.stop();
    }
}

/// One child: what starts its generations.
pub struct Child {
    pub name: &'static str,
    launch: Box<dyn Fn(u64, OnExit) -> Running + Send>,
}

impl Child {
    /// A child of type `A` and the reference under which callers find it.
    pub fn new<A>(name: &'static str, runtime: Arc<Runtime>, factory: Factory<A>) -> (Child, ChildRef<A>)
    where
        A: Actor<Context = Context<A>> + Handler<Letter<Ping>> + Handler<Letter<Misbehave>>,
    {
        let (publish, current) = watch::channel(None);
        let launch = move |generation, on_exit| {
            let (running, addr) = launch(runtime.clone(), factory.clone(), generation, on_exit);
            publish.send_replace(Some(addr));
            running
        };
        (Child { name, launch: Box::new(launch) }, ChildRef(current))
    }

    pub fn launch(&self, generation: u64, on_exit: OnExit) -> Running {
        (self.launch)(generation, on_exit)
    }
}

fn launch<A>(runtime: Arc<Runtime>, factory: Factory<A>, generation: u64, on_exit: OnExit) -> (Running, ChildAddr<A>)
where
    A: Actor<Context = Context<A>> + Handler<Letter<Ping>> + Handler<Letter<Misbehave>>,
{
    let (sender, receiver) = channel::channel::<A>(MAILBOX);
    let addr = ChildAddr::new(Addr::new(sender));
    let (abort, aborted) = oneshot::channel::<()>();
    let arbiter = Arbiter::with_tokio_rt(move || runtime);
    arbiter.spawn(async move {
        // The factory runs inside the task as well, so that its panic is a death like any other.
        let mut task = actix::spawn(async move {
            let actor = factory(generation);
            Context::with_receiver(receiver).into_future(actor).await;
        });
        tokio::select! {
            ended = &mut task => on_exit(exit_of(ended)).await,
            _ = aborted => {
                task.abort();
                let _ = task.await;
            }
        }
    });
    let (to_ping, to_kill, to_count) = (addr.clone(), addr.clone(), addr.clone());
    let running = Running {
        arbiter,
        abort: Some(abort),
        ping: Box::new(move || to_ping.send(Ping).map(|answer| answer.is_ok()).boxed()),
        misbehave: Box::new(move |mode| to_kill.send(mode).map(|_| ()).boxed()),
        depth: Box::new(move || to_count.depth()),
    };
    (running, addr)
}

fn exit_of(ended: Result<(), tokio::task::JoinError>) -> Exit {
    let Err(error) = ended else { return Exit::Stopped };
    if !error.is_panic() {
        return Exit::Stopped;
    }
    let payload = error.into_panic();
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| payload.downcast_ref::<String>().cloned());
    Exit::Panicked(text.unwrap_or_else(|| "a panic without a text".to_owned()))
}

/// Gives an actor the two answers that every supervised child owes, and has it open its letters.
macro_rules! supervised_child {
    ($actor:ty) => {
        impl<M: actix::Message> actix::Handler<$crate::supervisor::Letter<M>> for $actor
        where
            $actor: actix::Handler<M>,
        {
            type Result = $crate::supervisor::Reply<$actor, M>;
            fn handle(&mut self, letter: $crate::supervisor::Letter<M>, context: &mut Self::Context) -> Self::Result {
                $crate::supervisor::Reply(actix::Handler::<M>::handle(self, letter.open(), context))
            }
        }

        impl actix::Handler<$crate::supervisor::Ping> for $actor {
            type Result = ();
            fn handle(&mut self, _: $crate::supervisor::Ping, _: &mut Self::Context) {}
        }

        impl actix::Handler<$crate::supervisor::Misbehave> for $actor {
            type Result = ();
            fn handle(&mut self, mode: $crate::supervisor::Misbehave, context: &mut Self::Context) {
                mode.act(context);
            }
        }
    };
}

pub(crate) use supervised_child;
