//! A client's connection, which ends when the client takes nothing of what is sent to it, or too little.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep},
};

/// How long a client is waited for that takes what is sent to it slowly, or not at all.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// By how much it may be behind.
    pub(super) limit: Duration,
    /// Bytes a second that it has to take, on the whole.
    pub(super) pace: u64,
}

/// A stream whose writes fail when its client takes too little. While one waits, whoever writes reads nothing either, so no other bound would
/// ever end the connection, and the answer stays in memory.
///
/// The time in which writes wait is what the client is behind by; each byte that it takes makes that less, down to nothing: what it took
/// faster than it has to does not let it be slow later on. Time in which there is nothing to send is nobody's.
pub(super) struct Watched<S> {
    stream: S,
    patience: Patience,
    behind: Duration,
    /// While nothing goes: since when, and until when it may.
    stalled: Option<(Instant, Pin<Box<Sleep>>)>,
}

impl<S> Watched<S> {
    pub(super) fn new(stream: S, patience: Patience) -> Self {
        Self { stream, patience, behind: Duration::ZERO, stalled: None }
    }

    fn watch(&mut self, cx: &mut Context<'_>, outcome: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(outcome) = outcome {
            if let Some((since, _)) = self.stalled.take() {
                self.behind += since.elapsed();
            }
            let taken = outcome.as_ref().map_or(0, |length| *length as u64);
            let worth = taken.saturating_mul(1_000_000) / self.patience.pace.max(1);
            self.behind = self.behind.saturating_sub(Duration::from_micros(worth));
            return Poll::Ready(outcome);
        }
        let left = self.patience.limit.saturating_sub(self.behind);
        let (_, end) = self.stalled.get_or_insert_with(|| (Instant::now(), Box::pin(tokio::time::sleep(left))));
        end.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(cx, data);
        self.watch(cx, outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write_vectored(cx, data);
        self.watch(cx, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
        task::JoinHandle,
    };

    /// A connection of 64 bytes whose client has to take 2 bytes a second, and may be a minute behind.
    fn connection() -> (Watched<DuplexStream>, DuplexStream) {
        let (ours, theirs) = tokio::io::duplex(64);
        (Watched::new(ours, Patience { limit: Duration::from_secs(60), pace: 2 }), theirs)
    }

    /// Takes so many bytes at a time, after so many seconds, so often; then no more.
    fn takes(mut from: DuplexStream, length: usize, seconds: u64, times: usize) -> JoinHandle<DuplexStream> {
        tokio::spawn(async move {
            let mut piece = vec![0; length];
            for _ in 0..times {
                tokio::time::sleep(Duration::from_secs(seconds)).await;
                if from.read_exact(&mut piece).await.is_err() {
                    break;
                }
            }
            from
        })
    }

    /// Time passes only while everybody waits.
    #[tokio::test(start_paused = true)]
    async fn slow_readers_are_served_and_those_who_take_nothing_are_not() {
        let (mut watched, theirs) = connection();
        let reader = takes(theirs, 64, 30, 10);
        watched.write_all(&[7; 10 * 64]).await.unwrap();
        let began = Instant::now();
        let fault = watched.write_all(&[7; 2 * 64]).await.unwrap_err();
        assert_eq!(fault.kind(), io::ErrorKind::TimedOut);
        assert!(began.elapsed() >= Duration::from_secs(60));
        drop(reader.await.unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_takes_a_little_now_and_then_is_not_served() {
        let (mut watched, theirs) = connection();
        // Sixteen bytes are worth 8 s: twice it may wait for 30 s, and then not once more.
        let reader = takes(theirs, 16, 30, 1000);
        let began = Instant::now();
        let fault = watched.write_all(&[7; 64 * 64]).await.unwrap_err();
        assert_eq!(fault.kind(), io::ErrorKind::TimedOut);
        assert!(began.elapsed() < Duration::from_secs(90), "{:?}", began.elapsed());
        drop(watched);
        drop(reader.await.unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_taken_fast_does_not_count_for_later() {
        let (mut watched, theirs) = connection();
        let fast = takes(theirs, 64, 0, 1000);
        watched.write_all(&[7; 64_000]).await.unwrap();
        let began = Instant::now();
        let reader = takes(fast.await.unwrap(), 16, 30, 1000);
        assert_eq!(watched.write_all(&[7; 64 * 64]).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(began.elapsed() < Duration::from_secs(90), "{:?}", began.elapsed());
        drop(watched);
        drop(reader.await.unwrap());
    }
}
