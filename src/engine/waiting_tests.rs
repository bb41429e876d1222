//! Plans whose callbacks promise their results.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use super::testing::{
    Bench, Callback, Numbers, Toy, Value, bench, counts, f, keys, promises, wait,
};
use super::*;

/// Results as a test keeps them.
type Answer = Arc<dyn Fn(&[Value]) -> Result<Value, RecordError> + Send + Sync>;

/// Promises that a thread keeps, the last one of each `group` first.
pub(super) fn later(
    group: usize,
    answer: impl Fn(&[Value]) -> Result<Value, RecordError> + Send + Sync + 'static,
) -> Arc<Callback> {
    let answer: Answer = Arc::new(answer);
    let (send, asked) = mpsc::channel::<(Arc<Promise<Value>>, Vec<Value>)>();
    thread::spawn(move || {
        let mut waiting = Vec::new();
        while let Ok(next) = asked.recv() {
            waiting.push(next);
            while waiting.len() < group
                && let Ok(next) = asked.recv_timeout(Duration::from_millis(20))
            {
                waiting.push(next);
            }
            for (promise, args) in waiting.drain(..).rev() {
                promise.keep(answer(&args));
            }
        }
    });
    let send = Mutex::new(send);
    promises(move |args| {
        let promise = Promise::new();
        let send = send.lock().expect("no test panics holding it");
        send.send((promise.clone(), args.to_vec()))
            .expect("the thread lives as long as the callback");
        promise
    })
}

fn number(value: &Value) -> i64 {
    match value {
        Value::Number(number) => *number,
        other => panic!("not a number: {other:?}"),
    }
}

fn numbers(n: usize) -> Bench {
    bench(Numbers {
        n,
        ..Numbers::default()
    })
}

fn texts(numbers: impl IntoIterator<Item = i64>) -> Vec<String> {
    let text = |number| format!("Number({number})");
    numbers.into_iter().map(text).collect()
}

#[test]
fn results_keep_the_order_of_records() {
    let double = later(4, |x| Ok(Value::Number(number(&x[0]) * 2)));
    let odd = later(3, |x| Ok(Value::Number(number(&x[0]) % 2)));
    let visit = later(5, |_| Ok(Value::Text("ignored".into())));
    let twice = later(2, |x| {
        let ten = Value::Number(number(&x[0]) + 10);
        Ok(Value::List(vec![x[0].clone(), ten]))
    });
    let steps = vec![
        Step::Filter(odd),
        Step::ForEach(visit),
        Step::FlatMap(twice),
        Step::Map(double),
    ];
    let want = [22, 2, 26, 6, 30, 10, 34, 14, 38, 18];
    assert_eq!(numbers(10).run(steps, keys()), (texts(want), vec![]));
}

#[test]
fn what_is_there_at_once_waits_behind_what_is_promised() {
    // Only every third result is promised.
    let slow = later(1, |x| Ok(Value::Number(-number(&x[0]))));
    let some = Step::FlatMap(f(|x| Ok(Value::List(vec![x[0].clone()]))));
    let mixed = promises({
        let slow = slow.clone();
        move |x| {
            let promise = Promise::new();
            if number(&x[0]) % 3 == 0 {
                match Toy::map((), &slow, x[0].clone()) {
                    Err(Instead::Promise(promise)) => return promise,
                    other => panic!("{other:?}"),
                }
            }
            promise.keep(match number(&x[0]) {
                4 => Err(RecordError::new("four")),
                n => Ok(Value::Number(n)),
            });
            promise
        }
    });
    let (results, errors) = numbers(8).run(vec![Step::Map(mixed), some], keys());
    // The error stops the reader, but nothing that is under way.
    assert_eq!(errors, ["four"]);
    assert_eq!(results[..5], texts([0, 1, 2, -3, 5])[..]);
}

#[test]
fn an_accumulator_takes_one_record_at_a_time() {
    let calls = Arc::new(AtomicUsize::new(0));
    let sum = later(3, |x| {
        Ok(match x {
            [before, x] => Value::Number(number(before) + number(x)),
            _ => x[0].clone(),
        })
    });
    let steps = vec![Step::Accumulate(sum)];
    assert_eq!(numbers(50).run(steps, keys()), (texts([1225]), vec![]));
    let called = calls.clone();
    let by_key = later(3, move |x| {
        called.fetch_add(1, Ordering::SeqCst);
        match x {
            [_, before, _] => Ok(Value::Number(number(before) + 1)),
            [_, x] if number(x) == 1 => Err(RecordError::new("one")),
            _ => Ok(Value::Number(1)),
        }
    });
    let extract = f(|x| Ok(Value::Number(number(&x[0]) % 3)));
    let group = Step::AccumulateByKey {
        extract,
        f: by_key,
        repartition: false,
    };
    let (groups, errors) = numbers(10).run(vec![group], keys());
    assert_eq!(errors, ["one"]);
    // Nothing was read while the error was not known.
    assert_eq!((groups.len(), calls.load(Ordering::SeqCst)), (1, 2));
}

#[test]
fn a_stage_takes_no_more_than_it_may_hold() {
    let held = Arc::new(Mutex::new(Vec::new()));
    let kept = held.clone();
    let hold = promises(move |_| {
        let promise = Promise::new();
        kept.lock().expect("no panic").push(promise.clone());
        promise
    });
    let rest = Step::Accumulate(counts(true));
    let bench = numbers(5000);
    let execution = bench.start(vec![Step::Map(hold), rest], keys());
    let mut done = 0;
    while !execution.snapshot().status.is_finished() {
        let promises: Vec<_> = std::mem::take(&mut *held.lock().expect("no panic"));
        assert!(promises.len() <= 1000, "{} at once", promises.len());
        done += promises.len();
        for promise in promises {
            promise.keep(Ok(Value::Number(1)));
        }
        thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(done, 5000);
    let outcome = wait(&execution);
    assert_eq!(outcome.results.items().count(), 1);
}

#[test]
fn a_long_list_is_not_overtaken() {
    let list = later(1, |x| {
        let from = number(&x[0]) * 10_000;
        Ok(Value::List(
            (0..3000).map(|n| Value::Number(from + n)).collect(),
        ))
    });
    let one = later(7, |x| Ok(x[0].clone()));
    let steps = || vec![Step::FlatMap(list.clone()), Step::Map(one.clone())];
    let want = || (0..4).flat_map(|n| (0..3000).rev().map(move |m| n * 10_000 + m));
    assert_eq!(numbers(4).run(steps(), keys()), (texts(want()), vec![]));
    // And one that an accumulator flushes.
    let gather = f(|x| {
        Ok(match x {
            [Value::List(list), x] => Value::List([&list[..], std::slice::from_ref(x)].concat()),
            _ => Value::List(vec![x[0].clone()]),
        })
    });
    let expand = f(|x| match &x[0] {
        Value::List(list) => Ok(Value::List(vec![&list[..]; 800].concat())),
        other => Ok(other.clone()),
    });
    let again = f(|x| Ok(Value::List(vec![x[0].clone(); 2])));
    let steps = vec![
        Step::Accumulate(gather),
        Step::FlatMap(expand),
        Step::Map(one),
        Step::FlatMap(again),
    ];
    let (results, errors) = numbers(4).run(steps, keys());
    let want = (0..800).flat_map(|_| (0..4).rev().flat_map(|n| [n, n]));
    assert_eq!((results, errors), (texts(want), vec![]));
}

#[test]
fn what_waits_holds_no_worker_and_ends_at_once_when_it_is_aborted() {
    let bench = numbers(3);
    let promise = Promise::new();
    let never = promises(move |_| promise.clone());
    let waiting: Vec<_> = (0..20)
        .map(|_| bench.start(vec![Step::Map(never.clone())], keys()))
        .collect();
    // There is one worker only.
    assert_eq!(bench.run(vec![], keys()), (texts(0..3), vec![]));
    for execution in &waiting {
        assert_eq!(execution.snapshot().status, Status::Running);
        assert_eq!(execution.abort(), Abort::Ended);
        let outcome = wait(execution);
        assert!(outcome.aborted && outcome.errors.is_empty());
    }
}

#[test]
fn what_runs_here_goes_on_elsewhere() {
    let bench = numbers(0);
    let promise = Promise::new();
    let promised = promise.clone();
    let plan = Arc::new(bench.plan(vec![Step::Map(promises(move |_| promised.clone()))]));
    let parts = Parts {
        id: Id::parse(b"0000000000000000000000000000000000000000-1").expect("an id"),
        plan,
        trigger: Trigger::Command {
            what: CommandTrigger::Named("t".into()),
            in_order: false,
        },
        mode: Mode::Sync,
        broken: None,
        on_registered: None,
        on_unregistered: None,
    };
    let registration = Registration::new(parts, bench.limits.clone());
    let mut chunk = Chunk::names();
    chunk.push_name(b"1");
    registration.statistics.trigger();
    let unfinished = registration.run_here(&chunk, None, |_, _| ());
    let Err(unfinished) = unfinished else {
        panic!("it was promised only");
    };
    // It may be kept before anybody is woken.
    promise.keep(Ok(Value::Number(7)));
    let launch = Launch::of_registration(&registration, Source::Unfinished(unfinished));
    let execution = bench.registry.create(launch);
    bench.registry.start(&execution, true);
    let outcome = wait(&execution);
    assert_eq!(outcome.results.items().count(), 1);
    assert_eq!(registration.statistics.figures().success, 1);
}

#[test]
fn results_are_handed_over_as_values() {
    let bench = numbers(3);
    let (send, taken) = mpsc::channel();
    let mut launch = Launch::of_plan(bench.plan(vec![]), keys());
    launch.taker = Some(Box::new(move |values, errors| {
        send.send((values, errors.to_vec())).expect("it is awaited");
    }));
    let execution = bench.registry.create(launch);
    bench.registry.start(&execution, false);
    let outcome = wait(&execution);
    let (values, errors) = taken.recv().expect("it ended");
    assert_eq!(values, [0, 1, 2].map(Value::Number));
    assert!(errors.is_empty() && outcome.results.items().next().is_none());
}
