//! What is done on a server that dies on the way: asked for again until it is there.

use harness::{Client, Server, eventually};
use serde_json::Value;

/// Does it, on a server that may die meanwhile; it is started again without its failpoint.
pub fn done(server: &mut Server, died: &mut bool, mut is: impl FnMut(&mut Client) -> bool) {
    let mut client = server.client();
    eventually("it is done", || {
        if !server.is_running() {
            assert!(!*died, "it died twice");
            *died = true;
            assert!(server.ends().was_killed());
            server.unset("TIDEGATE_FAILPOINT");
            server.again();
            client = server.client();
        }
        is(&mut client)
    });
}

/// Waits for its death, if that is still to come: what it is killed behind may be seen done before it is.
pub fn dies(server: &mut Server, died: &mut bool) {
    if !*died {
        eventually("it dies where it was told to", || !server.is_running());
        done(server, died, |_| true);
    }
}

pub fn ask(client: &mut Client, method: &str, path: &str, body: Option<&Value>) -> Option<Value> {
    let text = body.map(Value::to_string);
    let answer = client.send(method, path, text.as_deref()).ok()?;
    (answer.status < 300).then(|| answer.json())
}
