use super::*;
use futures_util::StreamExt;
use std::io::Read;
use std::net::{Ipv4Addr, TcpListener};

const PATIENCE: Patience =
    Patience { between: Duration::from_secs(80), reading: Duration::from_secs(30), per_address_max: 3 };

/// Both ends of a connection.
fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let client = TcpStream::connect(listener.local_addr().expect("an address")).expect("a connection");
    (client, listener.accept().expect("a connection").0)
}

fn address(last: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 0, 0, last))
}

fn later(connections: &Connections, seconds: u64) -> Duration {
    connections.uptime.now() + Duration::from_secs(seconds)
}

#[test]
fn a_stuck_connection_is_closed_and_a_busy_one_is_not() {
    let connections = Connections::new(PATIENCE);
    let (mut client, socket) = pair();
    let opened = connections.admit(address(1), socket);
    assert_eq!(connections.look(later(&connections, 79)), 0);
    opened.connection.works();
    assert_eq!(connections.look(later(&connections, 100_000)), 0);
    opened.connection.waits();
    assert_eq!(connections.look(later(&connections, 82)), 1);
    assert_eq!(client.read(&mut [0]).expect("an end"), 0);
}

#[test]
fn row_43_an_address_opens_only_so_many_at_once() {
    let connections = Connections::new(PATIENCE);
    let open = |last: u8| {
        let (client, socket) = pair();
        client.set_nonblocking(true).expect("a socket");
        (client, connections.admit(address(last), socket))
    };
    let is_closed = |client: &mut TcpStream| client.read(&mut [0]).is_ok_and(|read| read == 0);
    let mut held: Vec<_> = (0..3).map(|_| open(1)).collect();
    let (mut client, fourth) = open(1);
    assert!(is_closed(&mut client));
    assert!(held.iter_mut().all(|(client, _)| !is_closed(client)));
    assert!(!is_closed(&mut open(2).0), "another address is another matter");
    drop(fourth);
    held.pop();
    assert!(!is_closed(&mut open(1).0), "one that is gone makes room");
    assert_eq!(connections.count(), 2);
    drop(held);
    assert_eq!((connections.count(), connections.addresses.len()), (0, 0));
}

#[actix_web::test]
async fn row_42_an_answer_that_nobody_takes_is_given_up() {
    let connections = Connections::new(PATIENCE);
    let (_client, socket) = pair();
    let opened = connections.admit(address(1), socket);
    let chunks = futures_util::stream::iter([Ok::<_, io::Error>(Bytes::from_static(b"a"))]);
    let body = BoxBody::new(actix_web::body::BodyStream::new(chunks.chain(futures_util::stream::pending())));
    let mut body = Arc::clone(&opened.connection).answers(body);
    opened.connection.works();
    std::future::poll_fn(|cx| Pin::new(&mut body).poll_next(cx)).await.expect("a chunk").expect("a chunk");
    assert_eq!(connections.look(later(&connections, 29)), 0);
    assert_eq!(connections.look(later(&connections, 32)), 1);
    let more = std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut body).poll_next(cx).is_pending())).await;
    assert!(more, "there is no more yet, and that is not the client's fault");
    assert_eq!(connections.look(later(&connections, 100_000)), 0);
    drop(body);
    assert_eq!(connections.look(later(&connections, 82)), 1);
}

#[test]
fn a_small_answer_is_not_watched() {
    let connections = Connections::new(PATIENCE);
    let opened = connections.admit(address(1), pair().1);
    opened.connection.works();
    let body = Arc::clone(&opened.connection).answers(BoxBody::new("small"));
    assert_eq!(Arc::strong_count(&opened.connection), 2, "of the table and of the test");
    drop(body);
    assert_eq!(connections.look(later(&connections, 82)), 1);
}
