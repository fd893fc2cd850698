//! Where an attempt's output goes: chunks without gaps, at most so many bytes of each stream, and an end that
//! says what was left out.
//!
//! The channel is bounded: a slow reader slows the program down instead of filling memory.

use bytes::Bytes;
use std::fmt;
use tokio::sync::mpsc;

/// One of the two streams of a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    pub fn word(self) -> &'static str {
        match self {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        }
    }
}

/// A piece of one stream (invariant 37).
#[derive(Clone, PartialEq, Eq)]
pub struct Chunk {
    pub stream: Stream,
    /// From 0, without a gap, for each stream by itself.
    pub seq: i64,
    /// Bytes of this stream that were handed over so far, these included.
    pub bytes_so_far: i64,
    pub data: Bytes,
    /// Set on the last chunk of a stream, whose data is empty. A stream without it was cut off.
    pub end: Option<StreamEnd>,
}

impl fmt::Debug for Chunk {
    /// Without the data, which is the tenant's.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Chunk { stream, seq, bytes_so_far, data, end } = self;
        write!(f, "Chunk({} {seq}: {} bytes up to {bytes_so_far}, {end:?})", stream.word(), data.len())
    }
}

/// The end of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamEnd {
    /// Bytes that were read and not handed over, because they were over the limit.
    pub dropped: i64,
}

/// Where an attempt's output goes. A stream that an executor does not have stays without any chunk.
#[derive(Debug, Clone)]
pub struct Output {
    limit: i64,
    chunks: mpsc::Sender<Chunk>,
}

impl Output {
    /// At most `limit_bytes` of each stream are handed over.
    pub fn new(limit_bytes: u64, chunks: mpsc::Sender<Chunk>) -> Output {
        Output { limit: i64::try_from(limit_bytes).unwrap_or(i64::MAX), chunks }
    }

    pub fn writer(&self, stream: Stream) -> StreamWriter {
        StreamWriter { stream, limit: self.limit, chunks: self.chunks.clone(), seq: 0, sent: 0, dropped: 0 }
    }
}

/// The writing end of one stream.
#[derive(Debug)]
pub struct StreamWriter {
    stream: Stream,
    limit: i64,
    chunks: mpsc::Sender<Chunk>,
    seq: i64,
    sent: i64,
    dropped: i64,
}

impl StreamWriter {
    /// Hands over what still fits and counts the rest. Waits for the reader; once there is none any more,
    /// everything only counts.
    pub async fn write(&mut self, data: &[u8]) {
        let room = usize::try_from(self.limit - self.sent).unwrap_or(usize::MAX);
        let (kept, over) = data.split_at(room.min(data.len()));
        self.dropped += length(over);
        if kept.is_empty() {
            return;
        }
        let bytes_so_far = self.sent + length(kept);
        let chunk = self.chunk(Bytes::copy_from_slice(kept), bytes_so_far, None);
        if self.chunks.send(chunk).await.is_err() {
            self.dropped += length(kept);
            return;
        }
        self.seq += 1;
        self.sent = bytes_so_far;
    }

    /// Says that the stream is at its end.
    pub async fn end(self) {
        let end = StreamEnd { dropped: self.dropped };
        // Without a reader there is nobody to tell.
        let _ = self.chunks.send(self.chunk(Bytes::new(), self.sent, Some(end))).await;
    }

    fn chunk(&self, data: Bytes, bytes_so_far: i64, end: Option<StreamEnd>) -> Chunk {
        Chunk { stream: self.stream, seq: self.seq, bytes_so_far, data, end }
    }
}

fn length(data: &[u8]) -> i64 {
    i64::try_from(data.len()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn written(limit: u64, pieces: &[&[u8]]) -> Vec<Chunk> {
        let (sender, mut chunks) = mpsc::channel(64);
        let mut writer = Output::new(limit, sender).writer(Stream::Stdout);
        for piece in pieces {
            writer.write(piece).await;
        }
        writer.end().await;
        let mut found = Vec::new();
        while let Some(chunk) = chunks.recv().await {
            found.push(chunk);
        }
        found
    }

    fn whole(chunks: &[Chunk]) -> Vec<u8> {
        chunks.iter().flat_map(|chunk| chunk.data.to_vec()).collect()
    }

    #[tokio::test]
    async fn s003_u9_up_to_the_limit_is_kept_and_what_is_over_it_is_counted() {
        for (limit, kept, dropped) in [(6, "abcdef", 0), (5, "abcde", 1), (3, "abc", 3), (0, "", 6)] {
            let chunks = written(limit, &[b"abc", b"d", b"ef"]).await;
            assert_eq!(whole(&chunks), kept.as_bytes(), "limit {limit}");
            let last = chunks.last().expect("an end");
            assert_eq!(last.end, Some(StreamEnd { dropped }), "limit {limit}");
            assert_eq!(last.bytes_so_far, length(kept.as_bytes()), "limit {limit}");
        }
    }

    #[tokio::test]
    async fn s003_u9_the_limit_counts_bytes_and_not_letters() {
        let chunks = written(4, &["é€".as_bytes()]).await;
        assert_eq!(whole(&chunks), &"é€".as_bytes()[..4]);
        assert_eq!(chunks[1].end, Some(StreamEnd { dropped: 1 }));
    }

    #[tokio::test]
    async fn chunks_have_no_gap_and_nothing_is_sent_for_nothing() {
        let chunks = written(4, &[b"ab", b"", b"cd", b"ef"]).await;
        let seen: Vec<_> = chunks.iter().map(|chunk| (chunk.seq, chunk.bytes_so_far, chunk.end.is_some())).collect();
        assert_eq!(seen, [(0, 2, false), (1, 4, false), (2, 4, true)]);
    }

    #[tokio::test]
    async fn without_a_reader_writing_goes_on_and_waits_for_nobody() {
        let (sender, chunks) = mpsc::channel(1);
        drop(chunks);
        let mut writer = Output::new(100, sender).writer(Stream::Stderr);
        for _ in 0..10 {
            writer.write(b"abc").await;
        }
        assert_eq!((writer.sent, writer.dropped, writer.seq), (0, 30, 0));
        writer.end().await;
    }
}
