use super::*;
use actix_web::test::TestRequest;
use futures_util::stream;

type Chunk = Result<Bytes, PayloadError>;

fn chunks(parts: &[&'static str]) -> impl Stream<Item = Chunk> + Unpin + use<> {
    let parts: Vec<Chunk> = parts.iter().map(|part| Ok(Bytes::from_static(part.as_bytes()))).collect();
    stream::iter(parts)
}

fn json() -> HttpRequest {
    TestRequest::post().insert_header(("content-type", "application/json")).to_http_request()
}

fn with(name: &'static str, value: &str) -> HttpRequest {
    TestRequest::post().insert_header((name, value)).to_http_request()
}

async fn code_of(payload: impl Stream<Item = Chunk> + Unpin, limits: &Limits) -> Option<Code> {
    read(payload, &json(), limits).await.err().map(|problem| problem.code)
}

#[actix_web::test]
async fn row_134_and_135_only_json_in_utf_8_is_taken() {
    let json = Ok(Media::Json);
    for (value, expected) in [
        ("application/json", json),
        ("Application/JSON; charset=utf-8", json),
        ("application/json;charset=\"UTF-8\"", json),
        ("application/x-ndjson", Ok(Media::Ndjson)),
        ("application/json; charset=utf-16", Err(Code::UnsupportedMediaType)),
        ("application/json; charset=latin1; charset=utf-8", Err(Code::UnsupportedMediaType)),
        ("application/vnd.api+json", Err(Code::UnsupportedMediaType)),
        ("text/json", Err(Code::UnsupportedMediaType)),
        ("text/plain", Err(Code::UnsupportedMediaType)),
        ("application/jsonx", Err(Code::UnsupportedMediaType)),
        ("", Err(Code::UnsupportedMediaType)),
    ] {
        let found = media(&with("content-type", value)).map_err(|problem| problem.code);
        assert_eq!(found, expected, "{value}");
    }
    let none = media(&TestRequest::post().to_http_request()).map_err(|problem| problem.code);
    assert_eq!(none, Err(Code::UnsupportedMediaType));
    let two = TestRequest::post()
        .append_header(("content-type", "application/json"))
        .append_header(("content-type", "application/json"))
        .to_http_request();
    assert!(media(&two).is_err());
}

#[actix_web::test]
async fn row_70_a_compressed_body_is_not_taken() {
    for (encoding, taken) in [("gzip", false), ("br, identity", false), ("identity", true), ("Identity", true)] {
        let request = TestRequest::post()
            .insert_header(("content-type", "application/json"))
            .insert_header(("content-encoding", encoding))
            .to_http_request();
        assert_eq!(media(&request).is_ok(), taken, "{encoding}");
    }
}

#[actix_web::test]
async fn a_body_is_read_whole_however_it_arrives() {
    for parts in [&[][..], &["{}"], &["{", "}"], &["", "{", "", "\"a\"", ":1}"]] {
        let body = read(chunks(parts), &json(), &Limits::of(7)).await.expect("a body");
        assert_eq!(body, parts.concat());
    }
}

#[actix_web::test]
async fn rows_67_to_69_a_body_is_taken_to_its_limit_and_not_beyond() {
    let limits = Limits::of(4);
    for (parts, code) in [
        (&["1234"][..], None),
        (&["12", "34"], None),
        (&["12345"], Some(Code::BodyTooLarge)),
        (&["1234", "5"], Some(Code::BodyTooLarge)),
        (&["12", "34", "5"], Some(Code::BodyTooLarge)),
    ] {
        assert_eq!(code_of(chunks(parts), &limits).await, code, "{parts:?}");
    }
}

#[actix_web::test]
async fn row_68_a_declared_length_over_the_limit_is_refused_unread() {
    let unreadable = || stream::poll_fn(|_| -> std::task::Poll<Option<Chunk>> { panic!("it was read") });
    for length in ["5", "18446744073709551615"] {
        let request = TestRequest::post()
            .insert_header(("content-type", "application/json"))
            .insert_header(("content-length", length))
            .to_http_request();
        let problem = read(unreadable(), &request, &Limits::of(4)).await.expect_err("a refusal");
        assert_eq!(problem.code, Code::BodyTooLarge);
    }
}

#[actix_web::test]
async fn row_40_a_body_that_stalls_is_given_up() {
    let limits = Limits { stall: Duration::from_millis(5), ..Limits::of(100) };
    let stalled = chunks(&["{"]).chain(stream::pending());
    assert_eq!(code_of(stalled, &limits).await, Some(Code::BodyTimeout));
}

#[actix_web::test]
async fn row_41_a_body_that_drips_is_given_up() {
    let limits = Limits { whole: Duration::from_nanos(1), ..Limits::of(usize::MAX) };
    let dripping = stream::repeat_with(|| Ok(Bytes::from_static(b" ")));
    assert_eq!(code_of(dripping, &limits).await, Some(Code::BodyTimeout));
}

#[actix_web::test]
async fn row_8_a_body_that_breaks_off_is_the_clients_fault() {
    for (error, code) in [
        (PayloadError::Incomplete(None), Code::BodyIncomplete),
        (PayloadError::EncodingCorrupted, Code::BodyIncomplete),
        (PayloadError::Overflow, Code::BodyTooLarge),
    ] {
        let broken = chunks(&["{"]).chain(stream::iter([Err(error)]));
        assert_eq!(code_of(broken, &Limits::of(100)).await, Some(code));
    }
}

#[actix_web::test]
async fn a_body_that_may_be_absent_needs_no_type_then() {
    let bare = TestRequest::post().to_http_request();
    assert_eq!(read_optional(chunks(&[]), &bare, &Limits::of(9)).await.expect("nothing"), "");
    let typed = with("content-length", "2");
    assert!(read_optional(chunks(&["{}"]), &typed, &Limits::of(9)).await.is_err());
    assert!(read_optional(chunks(&["{}"]), &with("transfer-encoding", "chunked"), &Limits::of(9)).await.is_err());
}

#[test]
fn deadlines_grow_with_the_size_to_a_minute() {
    for (bytes, seconds) in [(1_000, 30), (4 * 1024 * 1024, 46), (usize::MAX, 60)] {
        assert_eq!(Limits::of(bytes).whole, Duration::from_secs(seconds));
    }
}

async fn lines_of(parts: &[&'static str], limits: &LineLimits) -> (Vec<(u64, String)>, Option<Code>) {
    let request = with("content-type", "application/x-ndjson");
    let mut lines = Lines::open(chunks(parts), &request, limits).expect("lines");
    let mut found = Vec::new();
    loop {
        match lines.next().await {
            Ok(Some(line)) => found.push((line.number, String::from_utf8_lossy(&line.bytes).into_owned())),
            Ok(None) => return (found, None),
            Err(problem) => return (found, Some(problem.code)),
        }
    }
}

#[actix_web::test]
async fn row_141_lines_end_in_any_of_the_usual_ways() {
    let limits = LineLimits { line_bytes_max: 5, lines_max: 3, whole: Limits::of(100) };
    for (parts, expected) in [
        (&["a\nb\nc\n"][..], &[(1, "a"), (2, "b"), (3, "c")][..]),
        (&["a\r\nb\r", "\nc"], &[(1, "a"), (2, "b"), (3, "c")]),
        (&["a", "b", "\n", "", "cd"], &[(1, "ab"), (2, "cd")]),
        (&["\n \t\r\na\n\n"], &[(3, "a")]),
        (&["12345\n"], &[(1, "12345")]),
        (&[], &[]),
    ] {
        let (found, code) = lines_of(parts, &limits).await;
        let expected: Vec<(u64, String)> =
            expected.iter().map(|(number, text)| (*number, (*text).to_owned())).collect();
        assert_eq!((found, code), (expected, None), "{parts:?}");
    }
}

#[actix_web::test]
async fn row_142_lines_are_held_to_their_limits() {
    let limits = LineLimits { line_bytes_max: 5, lines_max: 2, whole: Limits::of(12) };
    for (parts, before, code) in [
        (&["a\n123456\n"][..], 1, Code::BodyTooLarge),
        (&["a\n1234", "56"], 1, Code::BodyTooLarge),
        (&["a\nb\nc\n"], 2, Code::TooManyItems),
        (&["12345\n", "12345\n", "1"], 2, Code::BodyTooLarge),
    ] {
        let (found, refused) = lines_of(parts, &limits).await;
        assert_eq!((found.len(), refused), (before, Some(code)), "{parts:?}");
    }
    assert!(Lines::open(chunks(&[]), &json(), &limits).is_err());
}
