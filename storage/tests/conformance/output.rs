//! What attempts wrote: appended once, read from any place, cut from the end.

use crate::fixture::{Fixture, at};
use crate::sent::ENV;
use storage::model::{Epoch, RunId};
use storage::store::{NewChunk, NewRecord, OutputEnd};

/// Pieces of a stream, numbered from `from`, with the stream's length as it grows from `bytes` on.
fn pieces(run: &RunId, epoch: i64, stream: &'static str, (from, bytes): (i64, i64), data: &[&[u8]]) -> Vec<NewChunk> {
    let mut length = bytes;
    let numbered = data.iter().zip(from..);
    let piece = |(data, seq): (&&[u8], i64)| {
        length += i64::try_from(data.len()).expect("it is short");
        let epoch = Epoch::from_number(epoch);
        NewChunk { run: run.clone(), epoch, stream, seq, bytes: length, data: data.to_vec(), dropped: None }
    };
    numbered.map(piece).collect()
}

/// A stream's end; it carries no bytes of its own.
fn end(run: &RunId, epoch: i64, stream: &'static str, bytes: i64, dropped: i64) -> NewChunk {
    let epoch = Epoch::from_number(epoch);
    NewChunk { run: run.clone(), epoch, stream, seq: 0, bytes, data: Vec::new(), dropped: Some(dropped) }
}

const ONE: Epoch = Epoch::from_number(1);

on_both! {
    async fn s003_u7_pieces_are_appended_to_what_is_there(store: Fixture) {
        let run = store.leased(store.record(ENV)).await.run;
        store.append_output(&pieces(&run, 1, "stdout", (0, 0), &[b"ab", b"cde"]), at(20)).await.unwrap();
        assert_eq!(whole(&store, &run, 1, "stdout").await, b"abcde");
        store.append_output(&pieces(&run, 1, "stdout", (2, 5), &[b"f"]), at(21)).await.unwrap();
        assert_eq!(whole(&store, &run, 1, "stdout").await, b"abcdef");
        let read = store.output_chunks(&run, ONE, "stdout", 0, 99).await.unwrap();
        let told: Vec<_> = read.iter().map(|piece| (piece.seq, piece.bytes, piece.stream.as_str())).collect();
        assert_eq!(told, [(0, 2, "stdout"), (1, 5, "stdout"), (2, 6, "stdout")]);
    }

    async fn a_piece_that_is_appended_again_is_left_as_it_is(store: Fixture) {
        let run = store.leased(store.record(ENV)).await.run;
        let mut first = pieces(&run, 1, "stdout", (0, 0), &[b"ab", b"cd"]);
        first.push(end(&run, 1, "stdout", 4, 9));
        store.append_output(&first, at(20)).await.unwrap();
        let before = store.snapshot().await;
        store.append_output(&first, at(21)).await.unwrap();
        let mut other = pieces(&run, 1, "stdout", (0, 0), &[b"XX", b"YY"]);
        other.push(end(&run, 1, "stdout", 5, 0));
        store.append_output(&other, at(22)).await.unwrap();
        store.append_output(&[], at(23)).await.unwrap();
        before.assert_same(&store.snapshot().await, "appending again");
        let twice = [first.clone(), pieces(&run, 1, "stdout", (2, 4), &[b"e"]), pieces(&run, 1, "stdout", (2, 4), &[b"E"])];
        store.append_output(&twice.concat(), at(24)).await.unwrap();
        assert_eq!(whole(&store, &run, 1, "stdout").await, b"abcde");
    }

    async fn s003_u8_streams_attempts_and_runs_are_kept_apart(store: Fixture) {
        let (run, other) = (store.leased(store.record(ENV)).await.run, store.leased(store.record(ENV)).await.run);
        let mut all = Vec::new();
        for (run, epoch, stream, text) in [
            (&run, 1, "stdout", "one out"),
            (&run, 1, "stderr", "one err"),
            (&run, 2, "stdout", "two out"),
            (&other, 1, "stdout", "other"),
        ] {
            all.extend(pieces(run, epoch, stream, (0, 0), &[text.as_bytes()]));
        }
        store.append_output(&all, at(20)).await.unwrap();
        assert_eq!(whole(&store, &run, 1, "stdout").await, b"one out");
        assert_eq!(whole(&store, &run, 1, "stderr").await, b"one err");
        assert_eq!(whole(&store, &run, 2, "stdout").await, b"two out");
        assert_eq!(whole(&store, &run, 2, "stderr").await, b"");
        assert_eq!(whole(&store, &other, 1, "stdout").await, b"other");
        assert_eq!(whole(&store, &RunId::from_text("run_none"), 1, "stdout").await, b"");
        assert_eq!(store.output_epoch(&run).await.unwrap(), Some(Epoch::from_number(2)), "the latest that wrote");
        assert_eq!(store.output_epoch(&other).await.unwrap(), Some(ONE));
        assert_eq!(store.output_epoch(&RunId::from_text("run_none")).await.unwrap(), None);
    }

    async fn s003_u9_the_length_counts_bytes_not_characters(store: Fixture) {
        let run = store.leased(store.record(ENV)).await.run;
        assert_eq!(store.output_tail(&run, ONE, "stdout", 9).await.unwrap(), (0, 0));
        store.append_output(&pieces(&run, 1, "stdout", (0, 0), &["żółć".as_bytes(), "🦀".as_bytes()]), at(20)).await.unwrap();
        assert_eq!(store.output_tail(&run, ONE, "stdout", 4).await.unwrap(), (12, 1));
    }

    async fn s003_u11_the_tail_begins_with_the_piece_that_holds_its_first_byte(store: Fixture) {
        let run = store.leased(store.record(ENV)).await.run;
        store.append_output(&pieces(&run, 1, "stdout", (0, 0), &[b"0123", b"45", b"6789"]), at(20)).await.unwrap();
        store.append_output(&pieces(&run, 1, "stderr", (0, 0), &[b"x"]), at(20)).await.unwrap();
        for (tail, seq) in [(1, 2), (4, 2), (5, 1), (6, 1), (7, 0), (10, 0), (11, 0), (i64::MAX, 0), (0, 0)] {
            assert_eq!(store.output_tail(&run, ONE, "stdout", tail).await.unwrap(), (10, seq), "the last {tail}");
        }
        assert_eq!(store.output_tail(&run, ONE, "stderr", 9).await.unwrap(), (1, 0));
        assert_eq!(store.output_tail(&run, Epoch::from_number(2), "stdout", 9).await.unwrap(), (0, 0));
    }

    async fn s003_u14_any_bytes_are_kept_as_they_are(store: Fixture) {
        let run = store.leased(store.record(ENV)).await.run;
        let every: Vec<u8> = (0..=255).collect();
        let long = vec![0xa5; 300_000];
        let data: [&[u8]; 6] = [b"\x00", b"\x1b[31mred\x1b[0m\r\n", &every, b"half \xc5", b"\xbc other half", &long];
        store.append_output(&pieces(&run, 1, "stdout", (0, 0), &data), at(20)).await.unwrap();
        assert_eq!(whole(&store, &run, 1, "stdout").await, data.concat());
    }

    async fn pieces_are_read_in_pages_from_any_of_them(store: Fixture) {
        let run = store.leased(store.record(ENV)).await.run;
        let texts: Vec<_> = (0..2_500).map(|n| format!("line {n}\n")).collect();
        let data: Vec<&[u8]> = texts.iter().map(|text| text.as_bytes()).collect();
        let mut all = pieces(&run, 1, "stdout", (0, 0), &data);
        // Pieces may come in another order than they are numbered in.
        all.reverse();
        store.append_output(&all, at(20)).await.unwrap();
        assert_eq!(whole(&store, &run, 1, "stdout").await, texts.concat().into_bytes());
        let page = store.output_chunks(&run, ONE, "stdout", 1_200, 3).await.unwrap();
        assert_eq!(page.iter().map(|piece| piece.seq).collect::<Vec<_>>(), [1_200, 1_201, 1_202]);
        assert_eq!(store.output_chunks(&run, ONE, "stdout", 2_500, 3).await.unwrap(), []);
    }

    async fn very_many_pieces_are_appended_in_one_call(store: Fixture) {
        let run = store.leased(store.record(ENV)).await.run;
        let data: Vec<&[u8]> = vec![b"x"; 12_000];
        store.append_output(&pieces(&run, 1, "stdout", (0, 0), &data), at(20)).await.expect("they are appended");
        assert_eq!(store.output_tail(&run, ONE, "stdout", 1).await.unwrap(), (12_000, 11_999));
    }

    async fn the_end_of_a_stream_says_how_long_it_is_and_what_was_not_kept(store: Fixture) {
        let run = store.leased(store.record(ENV)).await.run;
        assert_eq!(store.output_ends(&run, ONE).await.unwrap(), []);
        let mut last = pieces(&run, 1, "stderr", (0, 0), &[b"oops"]);
        last[0].dropped = Some(0);
        store.append_output(&[vec![end(&run, 1, "stdout", 0, 77)], last].concat(), at(20)).await.unwrap();
        let mut ends = store.output_ends(&run, ONE).await.unwrap();
        ends.sort_by(|a, b| a.stream.cmp(&b.stream));
        let told = |stream: &str, bytes, dropped| OutputEnd { stream: stream.to_owned(), bytes, dropped };
        assert_eq!(ends, [told("stderr", 4, 0), told("stdout", 0, 77)]);
        assert_eq!(store.output_ends(&run, Epoch::from_number(2)).await.unwrap(), []);
        assert_eq!(whole(&store, &run, 1, "stdout").await, b"", "an end has no bytes of its own");
    }

    async fn many_writers_append_side_by_side(store: Fixture) {
        let leases = [(); 6].map(|()| NewRecord { max_attempts: 9, ..store.record(ENV) });
        let mut writers = Vec::new();
        for (record, caller) in leases.into_iter().zip(store.callers(6).await) {
            let run = store.leased(record).await.run;
            writers.push(tokio::spawn(async move {
                for seq in 0..20 {
                    let piece = pieces(&run, 1, "stdout", (seq, seq * 2), &[b"ab"]);
                    caller.append_output(&piece, at(20)).await.expect("it is appended");
                }
                run
            }));
        }
        for writer in writers {
            let run = writer.await.unwrap();
            assert_eq!(whole(&store, &run, 1, "stdout").await, b"ab".repeat(20));
        }
    }

    async fn s003_u16_what_was_acknowledged_is_there_after_a_restart(store: Fixture) {
        let run = store.leased(store.record(ENV)).await.run;
        store.append_output(&pieces(&run, 1, "stdout", (0, 0), &[b"before"]), at(20)).await.unwrap();
        let store = store.restarted().await;
        assert_eq!(whole(&store, &run, 1, "stdout").await, b"before");
    }
}

/// A stream put together from its pages.
async fn whole(store: &Fixture, run: &RunId, epoch: i64, stream: &str) -> Vec<u8> {
    let (mut data, mut from) = (Vec::new(), 0);
    loop {
        let page = store.output_chunks(run, Epoch::from_number(epoch), stream, from, 700).await.expect("it is read");
        let Some(last) = page.last() else { return data };
        from = last.seq + 1;
        data.extend(page.into_iter().flat_map(|piece| piece.data));
    }
}
