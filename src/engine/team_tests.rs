//! Executions with parts on several shards, over an exchange in memory.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use super::testing::{
    Bench, Callback, Numbers, Toy, Value, bench, counts, counts_by_key, f, keys, sums, wait,
};
use super::waiting_tests::later;
use super::*;

/// What carries parcels between the registries of a test.
struct Mesh {
    shards: Vec<Bench>,
    steps: Box<dyn Fn() -> Vec<Step<Arc<Callback>>> + Send + Sync>,
    parts: Mutex<Vec<Option<Weak<dyn Part>>>>,
    /// What is said to this shard is lost.
    silent: AtomicBool,
    idle: Duration,
}

struct Wire {
    mesh: Weak<Mesh>,
    me: usize,
    id: Id,
}

const SILENT: usize = 2;

impl Exchange for Wire {
    fn owner(&self, key: &[u8]) -> Result<usize, String> {
        if key == b"Number(13)" {
            return Err("no shard owns 13".into());
        }
        let sum: usize = key.iter().map(|&byte| usize::from(byte)).sum();
        Ok(sum % 3)
    }

    fn send(&self, to: usize, parcels: Vec<Parcel>) {
        let Some(mesh) = self.mesh.upgrade() else {
            return;
        };
        if to == SILENT && mesh.silent.load(Ordering::SeqCst) {
            return;
        }
        for parcel in parcels {
            if let Parcel::Prepare { keep, .. } = parcel {
                mesh.prepare(self.id, to, self.me, keep);
                continue;
            }
            let part = mesh.part(to);
            if let Some(part) = part {
                part.receive(self.me, vec![parcel]);
            }
        }
    }

    fn name(&self, shard: usize) -> String {
        format!("shard {shard}")
    }
}

impl Mesh {
    fn new(
        sizes: [usize; 3],
        steps: impl Fn() -> Vec<Step<Arc<Callback>>> + Send + Sync + 'static,
    ) -> Arc<Self> {
        let shard = |n| {
            bench(Numbers {
                n,
                ..Numbers::default()
            })
        };
        Arc::new(Self {
            shards: sizes.map(shard).into(),
            steps: Box::new(steps),
            parts: Mutex::new(vec![None, None, None]),
            silent: AtomicBool::new(false),
            idle: Duration::from_secs(20),
        })
    }

    fn part(&self, shard: usize) -> Option<Arc<dyn Part>> {
        let parts = self.parts.lock().expect("no test panics holding it");
        parts[shard].as_ref().and_then(Weak::upgrade)
    }

    fn team(self: &Arc<Self>, id: Id, me: usize) -> Team {
        Team {
            size: 3,
            me,
            initiator: 0,
            idle: self.idle,
            exchange: Box::new(Wire {
                mesh: Arc::downgrade(self),
                me,
                id,
            }),
        }
    }

    fn make(self: &Arc<Self>, id: Id, me: usize) -> Arc<Execution<Toy>> {
        let shard = &self.shards[me];
        let mut launch = Launch::of_plan(shard.plan((self.steps)()), keys());
        launch.everywhere = (me == 0).then(|| Arc::from([]));
        let execution = shard.registry.create_part(id, self.team(id, me), launch);
        let part: Arc<dyn Part> = execution.clone();
        let mut parts = self.parts.lock().expect("no test panics holding it");
        parts[me] = Some(Arc::downgrade(&part));
        execution
    }

    fn prepare(self: &Arc<Self>, id: Id, me: usize, from: usize, keep: bool) {
        assert_eq!(from, 0);
        let execution = self.make(id, me);
        self.shards[me].registry.start(&execution, keep);
    }

    fn start(self: &Arc<Self>) -> Arc<Execution<Toy>> {
        let id = Id {
            shard: ShardId::ALONE,
            number: 0,
        };
        let execution = self.make(id, 0);
        self.shards[0].registry.start(&execution, true);
        execution
    }

    /// The part of a shard.
    fn execution(&self, shard: usize) -> Arc<Execution<Toy>> {
        let list = self.shards[shard].registry.list();
        list.first().expect("it has a part").clone()
    }

    fn results(&self, shard: usize) -> (Vec<String>, Vec<String>) {
        let outcome = wait(&self.execution(shard));
        let text = |item| match item {
            Item::Bulk(text) => String::from_utf8_lossy(text).into_owned(),
            other => format!("{other:?}"),
        };
        let mut results: Vec<_> = outcome.results.items().map(text).collect();
        results.sort();
        (results, outcome.errors.clone())
    }

    /// What the shard that was asked comes to.
    fn run(self: &Arc<Self>) -> (Vec<String>, Vec<String>) {
        wait(&self.start());
        self.results(0)
    }
}

fn number(value: &Value) -> i64 {
    match value {
        Value::Number(number) => *number,
        other => panic!("{other:?}"),
    }
}

fn texts(numbers: impl IntoIterator<Item = i64>) -> Vec<String> {
    let numbers = numbers.into_iter();
    let mut texts: Vec<_> = numbers.map(|n| format!("{:?}", Value::Number(n))).collect();
    texts.sort();
    texts
}

fn modulo(by: i64) -> Arc<Callback> {
    f(move |x| Ok(Value::Number(number(&x[0]) % by)))
}

#[test]
fn collect_brings_all_records_to_the_shard_that_was_asked() {
    let mesh = Mesh::new([3, 4, 2500], || vec![Step::Collect]);
    let want = [0..3, 0..4, 0..2500].into_iter().flatten();
    assert_eq!(mesh.run(), (texts(want), vec![]));
    for other in [1, 2] {
        assert_eq!(mesh.results(other), (vec![], vec![]));
        let status = mesh.execution(other).snapshot().status;
        assert_eq!(status, Status::Done);
    }
    assert_eq!(mesh.execution(0).shards(), (2, 2));
}

#[test]
fn without_collect_every_shard_has_its_own() {
    let mesh = Mesh::new([3, 0, 2], || vec![Step::Accumulate(counts(false))]);
    assert_eq!(mesh.run(), (texts([3]), vec![]));
    assert_eq!(mesh.results(1), (vec![], vec![]));
    assert_eq!(mesh.results(2), (texts([2]), vec![]));
}

#[test]
fn what_is_only_counted_is_only_counted() {
    for hinted in [true, false] {
        let count = move || {
            vec![
                Step::Collect,
                Step::Accumulate(counts(hinted)),
                Step::Collect,
            ]
        };
        let mesh = Mesh::new([3, 5, 7], count);
        assert_eq!(mesh.run(), (texts([15]), vec![]));
    }
}

#[test]
fn records_move_to_the_shard_of_their_key_and_are_grouped_there() {
    let steps = || {
        vec![
            Step::AccumulateByKey {
                extract: modulo(10),
                f: counts_by_key(),
                repartition: true,
            },
            Step::Collect,
        ]
    };
    let mesh = Mesh::new([1000, 1000, 3000], steps);
    let pair = |key| Value::List(vec![Value::Number(key), Value::Number(500)]);
    let mut want: Vec<_> = (0..10).map(|key| format!("{:?}", pair(key))).collect();
    want.sort();
    assert_eq!(mesh.run(), (want, vec![]));
}

#[test]
fn two_cuts_in_a_row_wait_for_each_other() {
    let steps = || {
        vec![
            Step::Repartition(modulo(7)),
            Step::Collect,
            Step::Repartition(modulo(5)),
            Step::Accumulate(counts(false)),
            Step::Collect,
            Step::Accumulate(sums()),
        ]
    };
    let mesh = Mesh::new([4000, 100, 900], steps);
    assert_eq!(mesh.run(), (texts([5000]), vec![]));
}

#[test]
fn a_limit_behind_a_cut_ends_everywhere() {
    let steps = || {
        let limit = Step::Limit { skip: 1, take: 2 };
        vec![Step::Repartition(modulo(6)), limit]
    };
    let mesh = Mesh::new([5000, 5000, 5000], steps);
    assert_eq!(mesh.run().1, Vec::<String>::new());
    // Six keys, two on each shard: all shards fill their windows.
    for shard in 0..3 {
        assert_eq!(mesh.results(shard).0.len(), 2, "shard {shard}");
    }
    // Nobody read on when nobody wanted more.
    let collected = || vec![Step::Collect, Step::Limit { skip: 0, take: 3 }];
    let mesh = Mesh::new([0, 100_000, 100_000], collected);
    assert_eq!(mesh.run().0.len(), 3);
}

#[test]
fn errors_come_to_the_shard_that_was_asked_where_records_are_collected() {
    let fails = || {
        f(|x| match number(&x[0]) {
            4 => Err("four".into()),
            n => Ok(Value::Number(n)),
        })
    };
    let mesh = Mesh::new([3, 6, 6], move || vec![Step::Map(fails()), Step::Collect]);
    let want = [0, 1, 2, 0, 1, 2, 3, 5, 0, 1, 2, 3, 5];
    let errors = vec!["four".to_owned(), "four".to_owned()];
    assert_eq!(mesh.run(), (texts(want), errors));
    // And a key that nobody owns stays where it is.
    let mesh = Mesh::new([0, 14, 0], || {
        vec![Step::Repartition(f(|x| Ok(x[0].clone()))), Step::Collect]
    });
    let (results, errors) = mesh.run();
    assert_eq!(results.len(), 13);
    assert_eq!(errors, ["no shard owns 13"]);
}

#[test]
fn nothing_runs_before_all_shards_are_ready() {
    let mesh = Mesh::new([3, 3, 3], || vec![Step::Collect]);
    mesh.silent.store(true, Ordering::SeqCst);
    let execution = mesh.start();
    assert_eq!(execution.snapshot().status, Status::PendingReceive);
    assert_eq!(mesh.execution(1).snapshot().status, Status::PendingRun);
    assert_eq!(execution.shards(), (1, 0));
    let late = Instant::now() + mesh.idle * 2;
    let part: Arc<dyn Part> = execution.clone();
    assert!(!part.is_silent(Instant::now()) && part.is_silent(late));
    assert_eq!(part.look(Instant::now()), None);
    assert_eq!(part.look(late).as_deref(), Some("shard 1, shard 2"));
    let outcome = execution.outcome().expect("it ended");
    assert_eq!(outcome.errors, ["Execution max idle reached"]);
    assert!(outcome.aborted);
    assert!(wait(&mesh.execution(1)).aborted);
}

#[test]
fn a_shard_that_is_lost_ends_it_with_the_cause() {
    let gate = Arc::new(AtomicBool::new(false));
    let mesh = {
        let mesh = Mesh::new([3, 3, 0], || vec![Step::Collect]);
        let mut mesh = Arc::into_inner(mesh).expect("nobody else has it");
        mesh.shards[SILENT] = bench(Numbers {
            n: 5,
            gate: gate.clone(),
            ..Numbers::default()
        });
        Arc::new(mesh)
    };
    let execution = mesh.start();
    let part: Arc<dyn Part> = execution.clone();
    part.lost("shard 2: gone");
    let outcome = wait(&execution);
    assert_eq!(outcome.errors, ["shard 2: gone"]);
    assert!(outcome.aborted);
    for shard in [1, SILENT] {
        assert!(wait(&mesh.execution(shard)).aborted);
    }
    gate.store(true, Ordering::SeqCst);
}

#[test]
fn a_shard_that_has_said_its_end_waits_for_no_room() {
    // Eight batches fill the inbox of a shard that takes nothing before it has the end of all.
    let mesh = Mesh::new([0, 20_000, 0], || {
        let whole = Step::Repartition(f(|_| Ok(Value::Number(2))));
        vec![whole, Step::Accumulate(counts(false)), Step::Collect]
    });
    let (mut all, errors) = mesh.run();
    assert_eq!(errors, Vec::<String>::new());
    assert_eq!(all.pop().as_deref(), Some("Number(20000)"));
}

#[test]
fn one_record_that_becomes_many_waits_for_room() {
    let mesh = Mesh::new([1, 2, 1], || {
        let many = f(|x| Ok(Value::List(vec![x[0].clone(); 30_000])));
        let again = f(|x| Ok(Value::List(vec![x[0].clone(); 2])));
        vec![
            Step::FlatMap(many),
            Step::FlatMap(again),
            Step::Repartition(modulo(7)),
            Step::Repartition(modulo(5)),
            Step::Accumulate(counts(false)),
            Step::Collect,
            Step::Accumulate(sums()),
        ]
    });
    assert_eq!(mesh.run(), (texts([240_000]), vec![]));
}

#[test]
fn what_an_accumulator_passes_on_waits_for_room_before_the_end_is_said() {
    let mesh = Mesh::new([1, 2, 1], || {
        // More than the batches that may be on their way.
        let many = f(|_| Ok(Value::List(vec![Value::Text("x".repeat(500)); 5000])));
        vec![
            Step::Accumulate(f(|x| Ok(x[0].clone()))),
            Step::FlatMap(many),
            Step::Repartition(f(|_| Ok(Value::Number(1)))),
            Step::Accumulate(counts(false)),
            Step::Collect,
        ]
    });
    assert_eq!(mesh.run(), (texts([15_000]), vec![]));
}

#[test]
fn what_was_promised_waits_for_room_as_well() {
    let mesh = Mesh::new([2000, 5000, 3000], || {
        let long = later(1000, |_| Ok(Value::Text("x".repeat(1000))));
        vec![
            Step::Map(long),
            Step::Repartition(f(|_| Ok(Value::Number(1)))),
            Step::Accumulate(counts(false)),
            Step::Collect,
        ]
    });
    assert_eq!(mesh.run(), (texts([10_000]), vec![]));
}

#[test]
fn records_that_are_promised_around_several_cuts_all_arrive() {
    for round in 0..4 {
        let mesh = Mesh::new([2500, 1500 + round, 2500], || {
            let same = || later(1000, |x| Ok(x[0].clone()));
            vec![
                Step::Map(same()),
                Step::Repartition(modulo(7)),
                Step::Map(same()),
                Step::Repartition(modulo(5)),
                Step::Map(same()),
                Step::Accumulate(counts(false)),
                Step::Collect,
                Step::Accumulate(sums()),
            ]
        });
        assert_eq!(mesh.run(), (texts([6500 + round as i64]), vec![]));
    }
}
