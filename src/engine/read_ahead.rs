//! Reading ahead: one thread prepares chunks while workers run callbacks on those before.
//!
//! All readers need the server lock, which is one, so one thread serves all executions, a chunk
//! each in turn. A reader whose execution lags behind sleeps until that catches up.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, unbounded};

use super::{Chunk, Enter, Reader, RecordError};

/// Chunks that may wait for an execution; the reader goes on when they are down to so few.
const AHEAD: usize = 4;
const BEHIND: usize = 1;
/// Chunks of which only the number is known are put together before a worker is woken for them.
const COUNTED_TOGETHER: usize = 16;
/// Bytes that may wait for an execution (a chunk is taken whole, however large).
const AHEAD_BYTES: usize = 4 << 20;

/// The reader thread.
pub struct ReadAhead {
    feeds: Sender<Arc<Feed>>,
}

/// What stands between a reader and its execution. Shared by the reader thread and a worker.
pub(super) struct Feed {
    state: Mutex<State>,
    feeds: Sender<Arc<Feed>>,
    wake: Box<dyn Fn() + Send + Sync>,
}

struct State {
    /// Here while nobody reads.
    reader: Option<Box<dyn Reader>>,
    chunks: VecDeque<Chunk>,
    bytes: usize,
    end: Option<Result<(), RecordError>>,
    /// The execution has nothing to do until a chunk comes.
    hungry: bool,
    /// Chunks that were put together in the last one.
    together: usize,
    /// The reader waits for room.
    asleep: bool,
    cancelled: bool,
    spent: Duration,
}

/// What a feed has.
pub(super) enum Fed {
    Chunk(Chunk),
    End(Result<(), RecordError>),
    /// Nothing yet; the execution is woken.
    Later,
}

impl ReadAhead {
    /// Starts the reader thread. It runs its loop inside `enter`.
    pub fn start(enter: Enter) -> std::io::Result<Self> {
        let (feeds, queue) = unbounded();
        thread::Builder::new()
            .name("geartrain-read".into())
            .spawn(move || enter(&mut || serve(&queue)))?;
        Ok(Self { feeds })
    }

    /// Begins to read. `wake` is called when the execution waits and something came.
    pub(super) fn open(
        &self,
        reader: Box<dyn Reader>,
        wake: Box<dyn Fn() + Send + Sync>,
    ) -> Arc<Feed> {
        let state = State {
            reader: Some(reader),
            chunks: VecDeque::new(),
            bytes: 0,
            end: None,
            hungry: false,
            together: 0,
            asleep: false,
            cancelled: false,
            spent: Duration::ZERO,
        };
        let feed = Arc::new(Feed {
            state: Mutex::new(state),
            feeds: self.feeds.clone(),
            wake,
        });
        feed.clone().read_on();
        feed
    }
}

fn serve(queue: &Receiver<Arc<Feed>>) {
    while let Ok(feed) = queue.recv() {
        feed.read();
    }
}

impl Feed {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read_on(self: Arc<Self>) {
        // Fails only when the reader thread is gone, and the server with it.
        let feeds = self.feeds.clone();
        let _ = feeds.send(self);
    }

    /// Reads one chunk, on the reader thread.
    fn read(self: Arc<Self>) {
        let reader = {
            let mut state = self.state();
            if state.cancelled {
                None
            } else {
                state.reader.take()
            }
        };
        let Some(mut reader) = reader else { return };
        let begin = Instant::now();
        let read = catch_unwind(AssertUnwindSafe(|| reader.read())).unwrap_or_else(|_| {
            Err(RecordError::new(
                "internal error in the reader; the server log has more",
            ))
        });
        let mut state = self.state();
        state.spent += begin.elapsed();
        let mut held_back = false;
        match read {
            // Nothing in this part of the data; others may read meanwhile.
            Ok(Some(chunk)) if chunk.is_empty() => state.reader = Some(reader),
            Ok(Some(chunk)) => {
                held_back = chunk.is_counted() && !state.has_counted_enough();
                state.push(chunk);
                state.reader = Some(reader);
            }
            Ok(None) => state.end = Some(Ok(())),
            Err(error) => state.end = Some(Err(error)),
        }
        let again = state.reader.is_some() && state.has_room();
        state.asleep = state.reader.is_some() && !again;
        let news = !held_back && (!state.chunks.is_empty() || state.end.is_some());
        let wake = news && std::mem::take(&mut state.hungry);
        drop(state);
        if wake {
            (self.wake)();
        }
        if again {
            self.read_on();
        }
    }

    /// The next chunk, for a worker.
    pub(super) fn take(self: &Arc<Self>) -> Fed {
        let mut state = self.state();
        let Some(chunk) = state.chunks.pop_front() else {
            return match state.end.take() {
                Some(end) => Fed::End(end),
                None => {
                    state.hungry = true;
                    Fed::Later
                }
            };
        };
        state.bytes -= chunk.size();
        let again = state.asleep && state.chunks.len() <= BEHIND && state.has_room();
        if again {
            state.asleep = false;
        }
        drop(state);
        if again {
            self.clone().read_on();
        }
        Fed::Chunk(chunk)
    }

    /// Reads no more.
    pub(super) fn cancel(&self) {
        let mut state = self.state();
        state.cancelled = true;
        state.chunks.clear();
        state.reader = None;
    }

    /// Time spent in the reader.
    pub(super) fn spent(&self) -> Duration {
        self.state().spent
    }
}

impl State {
    fn push(&mut self, chunk: Chunk) {
        match self.chunks.back_mut() {
            Some(last) if last.is_counted() && chunk.is_counted() => {
                last.count_on(chunk.len());
                self.together += 1;
            }
            _ => {
                self.bytes += chunk.size();
                self.chunks.push_back(chunk);
                self.together = 1;
            }
        }
    }

    fn has_counted_enough(&self) -> bool {
        !self.chunks.is_empty() && self.together + 1 >= COUNTED_TOGETHER
    }

    fn has_room(&self) -> bool {
        self.chunks.len() < AHEAD && self.bytes < AHEAD_BYTES
    }
}
