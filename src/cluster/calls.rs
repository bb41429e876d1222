//! Questions to other shards, and their answers.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::engine::{MAX_IDLE, ShardId};

/// Takes what the shards answered, each with its name.
pub type Answers = Box<dyn FnOnce(Vec<(ShardId, Result<Vec<u8>, String>)>) + Send>;

/// All questions that wait.
#[derive(Default)]
pub(super) struct Calls {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    next: u64,
    open: HashMap<u64, Call>,
}

struct Call {
    silent: Vec<ShardId>,
    answers: Vec<(ShardId, Result<Vec<u8>, String>)>,
    until: Instant,
    done: Answers,
}

impl Calls {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A question to these shards.
    pub(super) fn open(&self, shards: &[ShardId], until: Instant, done: Answers) -> u64 {
        if shards.is_empty() {
            done(Vec::new());
            return 0;
        }
        let mut state = self.state();
        state.next += 1;
        let number = state.next;
        let call = Call {
            silent: shards.to_vec(),
            answers: Vec::new(),
            until,
            done,
        };
        state.open.insert(number, call);
        number
    }

    /// A shard answered.
    pub(super) fn answer(&self, number: u64, shard: ShardId, answer: Result<Vec<u8>, String>) {
        let done = {
            let mut state = self.state();
            let Some(call) = state.open.get_mut(&number) else {
                return;
            };
            let Some(at) = call.silent.iter().position(|&other| other == shard) else {
                return;
            };
            call.silent.swap_remove(at);
            call.answers.push((shard, answer));
            if !call.silent.is_empty() {
                return;
            }
            state.open.remove(&number)
        };
        if let Some(call) = done {
            (call.done)(call.answers);
        }
    }

    /// A shard will answer nothing that it was asked.
    pub(super) fn lost(&self, shard: ShardId, why: &str) {
        let asked: Vec<_> = {
            let state = self.state();
            let waiting = state.open.iter();
            let waiting = waiting.filter(|(_, call)| call.silent.contains(&shard));
            waiting.map(|(&number, _)| number).collect()
        };
        for number in asked {
            self.answer(number, shard, Err(why.to_owned()));
        }
    }

    /// Those who had long enough do not answer any more.
    pub(super) fn look(&self, now: Instant) {
        let late: Vec<_> = {
            let state = self.state();
            let late = state.open.iter().filter(|(_, call)| call.until <= now);
            late.flat_map(|(&number, call)| call.silent.iter().map(move |&shard| (number, shard)))
                .collect()
        };
        for (number, shard) in late {
            self.answer(number, shard, Err(MAX_IDLE.into()));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, mpsc};
    use std::time::Duration;

    use super::*;

    fn shard(letter: u8) -> ShardId {
        ShardId::parse(&[letter; 40]).expect("an id")
    }

    #[test]
    fn a_call_is_done_when_all_have_answered_or_can_not() {
        let calls = Arc::new(Calls::default());
        let (send, receive) = mpsc::channel();
        let shards = [shard(b'a'), shard(b'b'), shard(b'c')];
        let now = Instant::now();
        let until = now + Duration::from_secs(5);
        let done = Box::new(move |answers| send.send(answers).expect("somebody waits"));
        let call = calls.open(&shards, until, done);
        calls.answer(call, shard(b'b'), Ok(b"yes".to_vec()));
        // Nobody answers twice, and nobody who was not asked.
        calls.answer(call, shard(b'b'), Ok(b"no".to_vec()));
        calls.answer(call, shard(b'd'), Ok(b"no".to_vec()));
        calls.lost(shard(b'a'), "gone");
        assert!(receive.try_recv().is_err());
        calls.look(now);
        assert!(receive.try_recv().is_err());
        calls.look(until);
        let answers = receive.try_recv().expect("all");
        let want = vec![
            (shard(b'b'), Ok(b"yes".to_vec())),
            (shard(b'a'), Err("gone".to_owned())),
            (shard(b'c'), Err(MAX_IDLE.to_owned())),
        ];
        assert_eq!(answers, want);
    }
}
