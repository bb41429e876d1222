//! A toy language, readers and an engine for unit tests: no server, no interpreter.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use super::*;

/// Values are numbers, texts and lists; errors are texts.
pub(super) struct Toy;

#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub(super) enum Value {
    Number(i64),
    Text(String),
    List(Vec<Value>),
}

type Body = dyn Fn(&[Value]) -> Asked<Value, Value> + Send + Sync;

pub(super) struct Callback {
    body: Box<Body>,
    hint: Hint,
    looks: bool,
}

impl Function for Callback {
    fn hint(&self) -> Hint {
        self.hint
    }

    fn looks_at_value(&self) -> bool {
        self.looks
    }

    fn describe(&self) -> &str {
        "<toy>"
    }
}

/// A callback.
pub(super) fn f(
    body: impl Fn(&[Value]) -> Result<Value, String> + Send + Sync + 'static,
) -> Arc<Callback> {
    Arc::new(Callback {
        body: at_once(body),
        hint: Hint::None,
        looks: true,
    })
}

fn at_once(body: impl Fn(&[Value]) -> Result<Value, String> + Send + Sync + 'static) -> Box<Body> {
    Box::new(move |args| body(args).map_err(|text| RecordError::new(text).into()))
}

/// A callback that promises what it returns.
pub(super) fn promises(
    body: impl Fn(&[Value]) -> Arc<Promise<Value>> + Send + Sync + 'static,
) -> Arc<Callback> {
    Arc::new(Callback {
        body: Box::new(move |args| Err(Instead::Promise(body(args)))),
        hint: Hint::None,
        looks: true,
    })
}

/// A callback that looks at keys only.
pub(super) fn blind(
    body: impl Fn(&[Value]) -> Result<Value, String> + Send + Sync + 'static,
) -> Arc<Callback> {
    Arc::new(Callback {
        body: at_once(body),
        hint: Hint::None,
        looks: false,
    })
}

/// A reducer by key that counts, and says so.
pub(super) fn counts_by_key() -> Arc<Callback> {
    let body = |args: &[Value]| match args {
        [_, Value::Number(before), _] => Ok(Value::Number(before + 1)),
        _ => Ok(Value::Number(1)),
    };
    Arc::new(Callback {
        body: at_once(body),
        hint: Hint::CountsByKey,
        looks: true,
    })
}

/// The counting accumulator; `hinted` or as any other.
pub(super) fn counts(hinted: bool) -> Arc<Callback> {
    let body = |args: &[Value]| match args {
        [Value::Number(before), _] => Ok(Value::Number(before + 1)),
        _ => Ok(Value::Number(1)),
    };
    let hint = if hinted { Hint::Counts } else { Hint::None };
    Arc::new(Callback {
        body: at_once(body),
        hint,
        looks: true,
    })
}

/// The accumulator that adds up numbers.
pub(super) fn sums() -> Arc<Callback> {
    f(|x| match x {
        [Value::Number(before), Value::Number(x)] => Ok(Value::Number(before + x)),
        [first] => Ok(first.clone()),
        other => Err(format!("not numbers: {other:?}")),
    })
}

/// A session that counts interrupts.
#[derive(Default)]
pub(super) struct Session(pub(super) AtomicUsize);

impl Context for Session {
    fn user(&self) -> &str {
        "default"
    }

    fn interrupt(&self, _ticket: u64) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn call(f: &Callback, args: &[Value]) -> Asked<Value, Value> {
    (f.body)(args)
}

/// Where nothing can be promised.
fn call_now(f: &Callback, args: &[Value]) -> Result<Value, RecordError> {
    call(f, args).map_err(|instead| match instead {
        Instead::Error(error) => error,
        Instead::Promise(_) => RecordError::new("no promises here"),
    })
}

impl Values for Toy {
    type Scope<'a> = ();
    type Object = Value;

    fn breathe((): ()) {}

    fn object((): (), record: &Native<'_>) -> Result<Value, RecordError> {
        let key = match record {
            Native::Name(key) | Native::Key { key, .. } | Native::Entry { key, .. } => key,
            Native::Words(words) => words.clone().next().unwrap_or_default(),
        };
        let text = String::from_utf8_lossy(key).into_owned();
        Ok(text.parse().map_or(Value::Text(text), Value::Number))
    }

    fn number((): (), number: u64) -> Value {
        Value::Number(number.cast_signed())
    }

    fn pair((): (), key: Value, value: Value) -> Result<Value, RecordError> {
        Ok(Value::List(vec![key, value]))
    }

    fn read_key<R>((): (), key: &Value, read: impl FnOnce(&[u8]) -> R) -> Result<R, RecordError> {
        Ok(read(format!("{key:?}").as_bytes()))
    }

    fn pack((): (), values: Vec<Value>, _pairs: bool) -> Packed {
        let len = values.len();
        let bytes = rmp_serde::to_vec(&values).expect("plain data can always be encoded");
        Packed {
            bytes,
            len,
            failed: Vec::new(),
        }
    }

    fn unpack((): (), bytes: &[u8]) -> Result<Vec<Value>, RecordError> {
        rmp_serde::from_slice(bytes).map_err(|error| RecordError::new(error.to_string()))
    }

    fn size((): (), _: &Value) -> usize {
        size_of::<Value>()
    }

    fn emit((): (), record: Value, results: &mut Results) -> Result<(), RecordError> {
        results.push(Item::Bulk(format!("{record:?}").as_bytes()));
        results.end_result();
        Ok(())
    }
}

impl Calls for Toy {
    type Function = Callback;
    type Several = std::iter::Rev<std::vec::IntoIter<Value>>;

    fn map((): (), f: &Callback, x: Value) -> Asked<Value, Value> {
        call(f, &[x])
    }

    fn test((): (), f: &Callback, x: &Value) -> Asked<bool, Value> {
        Ok(Self::is_true((), &call(f, std::slice::from_ref(x))?)?)
    }

    fn is_true((): (), value: &Value) -> Result<bool, RecordError> {
        Ok(*value != Value::Number(0))
    }

    fn visit((): (), f: &Callback, x: &Value) -> Asked<(), Value> {
        call(f, std::slice::from_ref(x)).map(drop)
    }

    fn expand((): (), f: &Callback, x: Value) -> Asked<Many<Value, Self::Several>, Value> {
        Ok(Self::several((), call(f, &[x])?))
    }

    fn several((): (), value: Value) -> Many<Value, Self::Several> {
        match value {
            Value::List(items) => Many::Several(items.into_iter().rev()),
            other => Many::One(other),
        }
    }

    fn accumulate(
        (): (),
        f: &Callback,
        accumulator: Option<Value>,
        x: Value,
    ) -> Asked<Value, Value> {
        match accumulator {
            Some(accumulator) => call(f, &[accumulator, x]),
            None => call(f, &[x]),
        }
    }

    fn key((): (), f: &Callback, x: &Value) -> Result<Value, RecordError> {
        call_now(f, std::slice::from_ref(x))
    }
}

impl Groups for Toy {
    type Groups = Vec<(Value, Value)>;

    fn groups((): ()) -> Self::Groups {
        Vec::new()
    }

    fn fold(
        (): (),
        groups: &mut Self::Groups,
        f: &Callback,
        key: Value,
        x: Value,
    ) -> Result<(), (Instead<Value>, Value)> {
        let at = groups.iter().position(|(other, _)| *other == key);
        let before = at.map(|at| groups.remove(at).1);
        let made = match before {
            Some(before) => call(f, &[key.clone(), before, x]),
            None => call(f, &[key.clone(), x]),
        };
        match made {
            Ok(made) => groups.push((key, made)),
            Err(instead) => return Err((instead, key)),
        }
        Ok(())
    }

    fn put((): (), groups: &mut Self::Groups, key: Value, value: Value) -> Result<(), RecordError> {
        groups.push((key, value));
        Ok(())
    }

    fn remove((): (), groups: &mut Self::Groups, key: Value) {
        groups.retain(|(other, _)| *other != key);
    }

    fn gather((): (), groups: &mut Self::Groups, key: Value, x: Value) -> Result<(), RecordError> {
        match groups.iter_mut().find(|(other, _)| *other == key) {
            Some((_, Value::List(list))) => list.push(x),
            _ => groups.push((key, Value::List(vec![x]))),
        }
        Ok(())
    }

    fn reduce((): (), f: &Callback, key: &Value, records: Value) -> Result<Value, RecordError> {
        call_now(f, &[key.clone(), records])
    }

    fn drain((): (), groups: Self::Groups) -> Vec<(Value, Value)> {
        groups
    }
}

impl Language for Toy {
    type Context = Session;
    type Generator = VecDeque<Result<Value, String>>;

    fn attach<R>(_: &Behalf<'_, Session>, body: impl for<'a> FnOnce(()) -> R) -> R {
        body(())
    }

    fn generate((): (), generator: &mut Self::Generator) -> Next<Value> {
        match generator.pop_front() {
            Some(Ok(value)) => Next::Record(value),
            Some(Err(text)) => Next::Failed(RecordError::new(text)),
            None => Next::End,
        }
    }
}

/// Reads `0..n` as names, `chunk` at a time; a closed gate makes it wait.
pub(super) struct Numbers {
    pub(super) n: usize,
    pub(super) chunk: usize,
    pub(super) gate: Arc<AtomicBool>,
    pub(super) fails_at: Option<usize>,
    /// What the planner asked for, and how many records were read.
    pub(super) asked: Arc<Mutex<Option<Need>>>,
    pub(super) read: Arc<AtomicUsize>,
}

impl Default for Numbers {
    fn default() -> Self {
        Self {
            n: 0,
            chunk: 3,
            gate: Arc::new(AtomicBool::new(true)),
            fails_at: None,
            asked: Arc::default(),
            read: Arc::default(),
        }
    }
}

struct NumbersReader {
    at: usize,
    n: usize,
    chunk: usize,
    gate: Arc<AtomicBool>,
    fails_at: Option<usize>,
    counted: bool,
    read: Arc<AtomicUsize>,
}

impl Readers for Numbers {
    fn open(&self, _: &ReaderSpec, need: Need, _: &str) -> Box<dyn Reader> {
        *self.asked.lock().expect("no test panics holding it") = Some(need);
        Box::new(NumbersReader {
            at: 0,
            n: self.n,
            chunk: self.chunk,
            gate: self.gate.clone(),
            fails_at: self.fails_at,
            counted: need == Need::Number,
            read: self.read.clone(),
        })
    }
}

impl Reader for NumbersReader {
    fn read(&mut self) -> Result<Option<Chunk>, RecordError> {
        while !self.gate.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
        if self.fails_at.is_some_and(|at| self.at >= at) {
            return Err(RecordError::new("the reader failed"));
        }
        if self.at >= self.n {
            return Ok(None);
        }
        let end = self.n.min(self.at + self.chunk);
        let mut chunk = if self.counted {
            Chunk::counted(end - self.at)
        } else {
            Chunk::names()
        };
        if !self.counted {
            for number in self.at..end {
                chunk.push_name(number.to_string().as_bytes());
            }
        }
        self.read.fetch_add(end - self.at, Ordering::SeqCst);
        self.at = end;
        Ok(Some(chunk))
    }
}

/// A registry over a reader of numbers, with one worker.
pub(super) struct Bench {
    pub(super) registry: Arc<Registry<Toy>>,
    pub(super) limits: Arc<Limits>,
    pub(super) session: Arc<Session>,
}

pub(super) fn bench(numbers: Numbers) -> Bench {
    let limits = Arc::new(Limits {
        executions: AtomicI64::new(1000),
        of_registration: AtomicI64::new(100),
        profile: AtomicBool::new(false),
        result_bytes: AtomicUsize::new(usize::MAX),
    });
    let enter: Enter = Arc::new(|body| body());
    let machinery = Machinery {
        pool: Pool::start("test", 1, &enter).expect("a thread"),
        read_ahead: ReadAhead::start(enter).expect("a thread"),
        readers: Box::new(numbers),
        shards: Arc::new(Alone),
    };
    let registry = Registry::new(limits.clone(), Arc::new(machinery));
    Bench {
        registry,
        limits,
        session: Arc::default(),
    }
}

/// The keys that the toy reader makes up.
pub(super) fn keys() -> Source<Toy> {
    Source::Server(ReaderSpec::KeyNames {
        pattern: b"*".to_vec(),
    })
}

impl Bench {
    pub(super) fn plan(&self, steps: Vec<Step<Arc<Callback>>>) -> Plan<Toy> {
        let mut builder = PlanBuilder::new("toy".into(), None);
        for step in steps {
            builder.push(step);
        }
        builder.build(self.session.clone())
    }

    pub(super) fn start(
        &self,
        steps: Vec<Step<Arc<Callback>>>,
        source: Source<Toy>,
    ) -> Arc<Execution<Toy>> {
        let execution = self
            .registry
            .create(Launch::of_plan(self.plan(steps), source));
        self.registry.start(&execution, true);
        execution
    }

    /// Runs to the end: results and errors as text.
    pub(super) fn run(
        &self,
        steps: Vec<Step<Arc<Callback>>>,
        source: Source<Toy>,
    ) -> (Vec<String>, Vec<String>) {
        let outcome = wait(&self.start(steps, source));
        let text = |item| match item {
            Item::Bulk(text) => String::from_utf8_lossy(text).into_owned(),
            other => format!("{other:?}"),
        };
        (
            outcome.results.items().map(text).collect(),
            outcome.errors.clone(),
        )
    }
}

/// Waits for the end of an execution.
pub(super) fn wait(execution: &Execution<Toy>) -> Arc<Outcome> {
    let (done, ended) = mpsc::channel();
    execution.when_done(Box::new(move |outcome| {
        done.send(outcome.clone()).expect("somebody waits")
    }));
    ended
        .recv_timeout(Duration::from_secs(20))
        .expect("the execution ends")
}
