//! Plans at work, through the traits.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::testing::{
    Bench, Callback, Numbers, Value, bench, blind, counts, counts_by_key, f, keys, wait,
};
use super::*;

fn numbers(n: usize) -> Numbers {
    Numbers {
        n,
        ..Numbers::default()
    }
}

fn number(value: &Value) -> i64 {
    match value {
        Value::Number(number) => *number,
        other => panic!("not a number: {other:?}"),
    }
}

/// Over a reader that waits until its gate is opened.
fn closed(n: usize) -> (Bench, Arc<AtomicBool>) {
    let numbers = numbers(n);
    let gate = numbers.gate.clone();
    gate.store(false, Ordering::SeqCst);
    (bench(numbers), gate)
}

fn texts(numbers: &[i64]) -> Vec<String> {
    numbers
        .iter()
        .map(|number| format!("Number({number})"))
        .collect()
}

fn limit(take: u64, skip: u64) -> Step<Arc<Callback>> {
    Step::Limit { skip, take }
}

/// Results of a plan over `0..n`, which must have no errors.
fn check(n: usize, steps: Vec<Step<Arc<Callback>>>, want: &[i64]) {
    let (results, errors) = bench(numbers(n)).run(steps, keys());
    assert_eq!((results, errors), (texts(want), vec![]));
}

#[test]
fn records_pass_in_order_and_lists_from_their_end() {
    check(4, vec![], &[0, 1, 2, 3]);
    let double = f(|x| Ok(Value::Number(number(&x[0]) * 2)));
    let odd = f(|x| Ok(Value::Number(number(&x[0]) % 2)));
    check(4, vec![Step::Filter(odd), Step::Map(double)], &[2, 6]);
    let twice = f(|x| {
        Ok(Value::List(vec![
            x[0].clone(),
            Value::Number(10 + number(&x[0])),
        ]))
    });
    check(2, vec![Step::FlatMap(twice)], &[10, 0, 11, 1]);
}

#[test]
fn a_limit_reads_one_record_more_than_it_passes_on() {
    let seen = Arc::new(AtomicUsize::new(0));
    let counter = seen.clone();
    let look = f(move |x| {
        counter.fetch_add(1, Ordering::SeqCst);
        Ok(x[0].clone())
    });
    check(100, vec![Step::ForEach(look), limit(2, 3)], &[3, 4]);
    assert_eq!(seen.load(Ordering::SeqCst), 6);
    check(5, vec![limit(0, 0)], &[]);
    check(5, vec![limit(9, 4)], &[4]);
}

#[test]
fn nothing_in_is_nothing_out() {
    let add = || f(|x| Ok(Value::Number(x.iter().map(number).sum())));
    check(0, vec![Step::Accumulate(add())], &[]);
    check(0, vec![Step::Accumulate(counts(true))], &[]);
    check(
        4,
        vec![
            Step::Accumulate(add()),
            Step::Collect,
            Step::Accumulate(add()),
        ],
        &[6],
    );
}

#[test]
fn an_error_stops_the_reader_but_not_what_is_held() {
    let fails = f(|x| match number(&x[0]) {
        2 => Err("two".into()),
        other => Ok(Value::Number(other)),
    });
    let (results, errors) = bench(numbers(50)).run(vec![Step::Map(fails)], keys());
    assert_eq!((results, errors), (texts(&[0, 1]), vec!["two".to_owned()]));

    let add = f(|x| match x {
        [sum, next] if number(next) == 3 => Err(format!("at {}", number(sum))),
        _ => Ok(Value::Number(x.iter().map(number).sum())),
    });
    let steps = vec![Step::Accumulate(add)];
    let (results, errors) = bench(numbers(50)).run(steps, keys());
    // The accumulator went with its error, and nothing came after.
    assert_eq!((results, errors), (vec![], vec!["at 3".to_owned()]));
}

#[test]
fn groups_come_by_key() {
    let parity = || f(|x| Ok(Value::Number(number(&x[0]) % 2)));
    let add = f(|x| Ok(Value::Number(x[1..].iter().map(number).sum())));
    let step = Step::AccumulateByKey {
        extract: parity(),
        f: add,
        repartition: true,
    };
    let (mut results, errors) = bench(numbers(5)).run(vec![step], keys());
    results.sort();
    assert_eq!(
        results,
        [
            "List([Number(0), Number(6)])",
            "List([Number(1), Number(4)])"
        ]
    );
    assert_eq!(errors, Vec::<String>::new());

    let size = f(|x| match &x[1] {
        Value::List(list) => Ok(Value::Number(list.len() as i64)),
        other => panic!("{other:?}"),
    });
    let step = Step::Group {
        extract: parity(),
        f: size,
    };
    let (results, _) = bench(numbers(5)).run(vec![step], keys());
    // The key seen last comes first.
    assert_eq!(
        results,
        [
            "List([Number(1), Number(2)])",
            "List([Number(0), Number(3)])"
        ]
    );
}

#[test]
fn what_the_planner_knows_changes_no_result() {
    for (take, skip, n) in [
        (0, 0, 7),
        (3, 2, 7),
        (100, 1, 7),
        (2, 9, 7),
        (1, 0, 0),
        (6, 0, 6),
    ] {
        let run = |hinted| {
            let steps = vec![limit(take, skip), Step::Accumulate(counts(hinted))];
            bench(numbers(n)).run(steps, keys())
        };
        assert_eq!(run(true), run(false), "limit({take}, {skip}) of {n}");
    }
    let run = |hinted| bench(numbers(10)).run(vec![Step::Accumulate(counts(hinted))], keys());
    assert_eq!(run(true), run(false));
}

#[test]
fn a_reader_supplies_what_is_looked_at() {
    let asked = |steps: Vec<Step<Arc<Callback>>>| {
        let numbers = numbers(3);
        let asked = numbers.asked.clone();
        bench(numbers).run(steps, keys());
        asked.lock().unwrap().take()
    };
    let same = || f(|x| Ok(x[0].clone()));
    let blind = || blind(|x| Ok(x[0].clone()));
    let count = || Step::Accumulate(counts(true));
    assert_eq!(asked(vec![count()]), Some(Need::Number));
    assert_eq!(asked(vec![limit(1, 0), count()]), Some(Need::Number));
    assert_eq!(
        asked(vec![Step::ForEach(same()), count()]),
        Some(Need::Records)
    );
    assert_eq!(
        asked(vec![Step::ForEach(blind()), count()]),
        Some(Need::Keys)
    );
    assert_eq!(
        asked(vec![Step::Filter(blind()), Step::Map(blind())]),
        Some(Need::Keys)
    );
    let by_key = |extract| {
        vec![Step::AccumulateByKey {
            extract,
            f: counts_by_key(),
            repartition: false,
        }]
    };
    assert_eq!(asked(by_key(blind())), Some(Need::Keys));
    assert_eq!(asked(by_key(same())), Some(Need::Records));
    // The record itself is a result, or is seen by somebody later.
    assert_eq!(asked(vec![Step::Filter(blind())]), Some(Need::Records));
    assert_eq!(
        asked(vec![Step::Filter(blind()), Step::Map(same())]),
        Some(Need::Records)
    );
    assert_eq!(asked(vec![]), Some(Need::Records));
}

#[test]
fn a_failing_reader_leaves_its_error_and_what_came_before() {
    let numbers = Numbers {
        n: 9,
        fails_at: Some(6),
        ..Numbers::default()
    };
    let (results, errors) = bench(numbers).run(vec![], keys());
    assert_eq!(results, texts(&[0, 1, 2, 3, 4, 5]));
    assert_eq!(errors, ["the reader failed"]);
    let generator = Source::Generator([Ok(Value::Number(1)), Err("ended".into())].into());
    let (results, errors) = bench(Numbers::default()).run(vec![], generator);
    assert_eq!((results, errors), (texts(&[1]), vec!["ended".to_owned()]));
}

#[test]
fn a_waiting_execution_holds_no_worker() {
    let (bench, gate) = closed(5);
    // The one worker is free although the first execution waits for its reader.
    let waits = bench.start(vec![], keys());
    let (results, _) = bench.run(vec![], Source::Generator([Ok(Value::Number(7))].into()));
    assert_eq!(results, texts(&[7]));
    assert_eq!(waits.snapshot().status, Status::Running);
    gate.store(true, Ordering::SeqCst);
    assert_eq!(wait(&waits).results.len(), 5);
}

#[test]
fn a_reader_does_not_run_away_from_its_execution() {
    let numbers = Numbers {
        n: 100_000,
        chunk: 10,
        ..Numbers::default()
    };
    let read = numbers.read.clone();
    let first = f(|x| match number(&x[0]) {
        0 => Ok(x[0].clone()),
        _ => Err("enough".into()),
    });
    let (results, errors) = bench(numbers).run(vec![Step::Map(first)], keys());
    assert_eq!((results.len(), errors.len()), (1, 1));
    assert!(read.load(Ordering::SeqCst) < 1000);
}

#[test]
fn a_queued_execution_is_aborted_and_a_running_one_ends_with_an_error() {
    let (bench, gate) = closed(5);
    let queued = bench
        .registry
        .create(Launch::of_plan(bench.plan(vec![]), keys()));
    assert_eq!(queued.abort(), Abort::Ended);
    assert_eq!(queued.snapshot().status, Status::Aborted);
    queued.start();

    let running = bench.start(vec![], keys());
    while running.snapshot().status == Status::Created {
        std::thread::yield_now();
    }
    assert_eq!(running.abort(), Abort::Running);
    gate.store(true, Ordering::SeqCst);
    let outcome = wait(&running);
    assert_eq!(running.snapshot().status, Status::Done);
    assert_eq!(outcome.errors.len(), 1);
    assert!(outcome.errors[0].contains("forcestopped"));
    assert_eq!(running.abort(), Abort::Ended);
}

#[test]
fn a_panic_ends_the_execution_and_not_the_worker() {
    let bench = bench(numbers(3));
    let (_, errors) = bench.run(vec![Step::Map(f(|_| panic!("a test panics")))], keys());
    assert!(errors[0].contains("internal error"), "{errors:?}");
    assert_eq!(bench.run(vec![], keys()).0.len(), 3);
}

#[test]
fn the_oldest_executions_go() {
    let bench = bench(numbers(3));
    bench.limits.executions.store(2, Ordering::SeqCst);
    let ids: Vec<_> = (0..4)
        .map(|_| {
            let execution = bench.start(vec![], keys());
            wait(&execution);
            execution.id
        })
        .collect();
    let left: Vec<_> = bench
        .registry
        .list()
        .iter()
        .map(|execution| execution.id)
        .collect();
    assert_eq!(left, ids[2..]);
    assert!(bench.registry.find(ids[0].to_string().as_bytes()).is_err());
}

#[test]
fn results_are_bounded_by_bytes() {
    let bench = bench(numbers(1000));
    bench.limits.result_bytes.store(500, Ordering::SeqCst);
    let (results, errors) = bench.run(vec![], keys());
    assert!(!results.is_empty() && results.len() < 100);
    assert!(
        errors.len() == 1 && errors[0].contains("MaxResultsMemory"),
        "{errors:?}"
    );
    // Each fits, together they do not: the oldest goes.
    let first = bench.start(vec![limit(20, 0)], keys());
    wait(&first);
    let second = bench.start(vec![limit(20, 0)], keys());
    wait(&second);
    while bench.registry.find(first.id.to_string().as_bytes()).is_ok() {
        std::thread::yield_now();
    }
    assert!(
        bench
            .registry
            .find(second.id.to_string().as_bytes())
            .is_ok()
    );
}

#[test]
fn what_has_not_ended_is_not_dropped() {
    let (bench, gate) = closed(5);
    let execution = bench.start(vec![], keys());
    let id = execution.id.to_string();
    assert_eq!(
        bench.registry.drop_finished(id.as_bytes()),
        Err(Error::NotFinished)
    );
    assert_eq!(execution.outcome().map(drop), Err(Error::StillRunning));
    gate.store(true, Ordering::SeqCst);
    wait(&execution);
    assert_eq!(bench.registry.drop_finished(id.as_bytes()), Ok(()));
    assert_eq!(
        bench.registry.drop_finished(id.as_bytes()),
        Err(Error::NoSuchExecution)
    );
}

#[test]
fn steps_are_listed_as_in_redisgears() {
    let same = || f(|x| Ok(x[0].clone()));
    let group = Step::AccumulateByKey {
        extract: same(),
        f: same(),
        repartition: true,
    };
    let plan = bench(numbers(0)).plan(vec![Step::FlatMap(same()), group, limit(1, 0)]);
    let kinds: Vec<_> = plan.describe().iter().map(|info| info.kind).collect();
    let want = [
        "map",
        "map",
        "flatmap",
        "extractkey",
        "repartition",
        "accumulatebykey",
        "map",
        "limit",
    ];
    assert_eq!(kinds, want);
}
