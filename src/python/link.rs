//! The border to CPython's C API where PyO3 has no safe call: starting the interpreter, its
//! allocator, and exceptions raised in another thread. The room's only unsafe.
#![expect(
    unsafe_code,
    reason = "the border to the C API; every block says why it is sound"
)]

use std::ffi::{CStr, CString, c_int, c_ulong, c_void};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use pyo3::ffi;
use pyo3::prelude::*;

/// Functions that give memory, such as the server's, so that its accounting sees Python's memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Allocator {
    /// As `malloc`: null where there is not so much memory.
    pub(crate) alloc: unsafe extern "C" fn(usize) -> *mut c_void,
    /// As `free`.
    pub(crate) free: unsafe extern "C" fn(*mut c_void),
    /// Bytes that a pointer of the above occupies.
    pub(crate) size: unsafe extern "C" fn(*mut c_void) -> usize,
}

static ALLOCATOR: OnceLock<Allocator> = OnceLock::new();
static TOTAL: AtomicUsize = AtomicUsize::new(0);
static CURRENT: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

/// Bytes taken since the start, at most at a time, and now.
pub(crate) fn memory() -> [usize; 3] {
    [&TOTAL, &PEAK, &CURRENT].map(|counter| counter.load(Ordering::Relaxed))
}

fn took(size: usize) {
    TOTAL.fetch_add(size, Ordering::Relaxed);
    let now = CURRENT.fetch_add(size, Ordering::Relaxed) + size;
    if now > PEAK.load(Ordering::Relaxed) {
        PEAK.fetch_max(now, Ordering::Relaxed);
    }
}

fn gave(size: usize) {
    CURRENT.fetch_sub(size, Ordering::Relaxed);
}

extern "C" fn raw_malloc(ctx: *mut c_void, size: usize) -> *mut c_void {
    // SAFETY: `ctx` is the `Allocator` that `use_allocator` handed over, which lives for ever. The
    // server's functions take any size but 0.
    unsafe {
        let allocator = &*ctx.cast::<Allocator>();
        let pointer = (allocator.alloc)(size.max(1));
        if !pointer.is_null() {
            took((allocator.size)(pointer));
        }
        pointer
    }
}

extern "C" fn raw_calloc(ctx: *mut c_void, count: usize, size: usize) -> *mut c_void {
    let Some(size) = count.checked_mul(size) else {
        return std::ptr::null_mut();
    };
    let pointer = raw_malloc(ctx, size);
    if !pointer.is_null() {
        // SAFETY: so many bytes were just allocated.
        unsafe { pointer.cast::<u8>().write_bytes(0, size) };
    }
    pointer
}

extern "C" fn raw_realloc(ctx: *mut c_void, pointer: *mut c_void, size: usize) -> *mut c_void {
    if pointer.is_null() {
        return raw_malloc(ctx, size);
    }
    // SAFETY: as `raw_malloc`; `pointer` came from these functions. It is copied by hand because
    // the server's own realloc ends the process where there is not enough memory.
    unsafe {
        let allocator = &*ctx.cast::<Allocator>();
        let before = (allocator.size)(pointer);
        if size <= before && size >= before / 2 {
            return pointer;
        }
        let moved = raw_malloc(ctx, size);
        if !moved.is_null() {
            std::ptr::copy_nonoverlapping::<u8>(pointer.cast(), moved.cast(), before.min(size));
            raw_free(ctx, pointer);
        }
        moved
    }
}

extern "C" fn raw_free(ctx: *mut c_void, pointer: *mut c_void) {
    if pointer.is_null() {
        return;
    }
    // SAFETY: as `raw_realloc`.
    unsafe {
        let allocator = &*ctx.cast::<Allocator>();
        gave((allocator.size)(pointer));
        (allocator.free)(pointer);
    }
}

extern "C" fn arena_alloc(ctx: *mut c_void, size: usize) -> *mut c_void {
    raw_malloc(ctx, size)
}

extern "C" fn arena_free(ctx: *mut c_void, pointer: *mut c_void, _size: usize) {
    raw_free(ctx, pointer);
}

/// Gives Python its memory: arenas of small objects, and everything large. Before the start.
fn use_allocator(allocator: Allocator) {
    let ctx = std::ptr::from_ref(ALLOCATOR.get_or_init(|| allocator))
        .cast_mut()
        .cast();
    let mut raw = ffi::PyMemAllocatorEx {
        ctx,
        malloc: Some(raw_malloc),
        calloc: Some(raw_calloc),
        realloc: Some(raw_realloc),
        free: Some(raw_free),
    };
    let mut arenas = ffi::PyObjectArenaAllocator {
        ctx,
        alloc: Some(arena_alloc),
        free: Some(arena_free),
    };
    // SAFETY: the interpreter is not started, so nothing of the old allocators is in use; both
    // structures are copied.
    unsafe {
        ffi::PyMem_SetAllocator(ffi::PyMemAllocatorDomain::PYMEM_DOMAIN_RAW, &raw mut raw);
        ffi::PyObject_SetArenaAllocator(&raw mut arenas);
    }
}

/// The server loads modules with local symbols. Extension modules expect those of libpython to be
/// global, so it is opened once more, that way.
fn promote_libpython() {
    // SAFETY: dladdr fills `info` for the address of a function that exists; dlopen with NOLOAD
    // takes the name it gave and only changes the visibility of a loaded library.
    unsafe {
        let mut info: libc::Dl_info = std::mem::zeroed();
        let address = ffi::Py_IsInitialized as *const c_void;
        if libc::dladdr(address, &raw mut info) != 0 && !info.dli_fname.is_null() {
            libc::dlopen(
                info.dli_fname,
                libc::RTLD_NOW | libc::RTLD_GLOBAL | libc::RTLD_NOLOAD,
            );
        }
    }
}

fn check(status: ffi::PyStatus) -> Result<(), String> {
    // SAFETY: a status is plain data; its message, if any, is a static C string.
    unsafe {
        if ffi::PyStatus_Exception(status) == 0 {
            return Ok(());
        }
        let message = if status.err_msg.is_null() {
            "unknown error".into()
        } else {
            CStr::from_ptr(status.err_msg)
                .to_string_lossy()
                .into_owned()
        };
        Err(format!("could not start Python: {message}"))
    }
}

/// Starts the interpreter: isolated from the environment, UTF-8 always, no signal handlers. The
/// calling thread does not stay attached.
pub(super) fn initialize(allocator: Option<Allocator>) -> Result<(), String> {
    promote_libpython();
    if let Some(allocator) = allocator {
        use_allocator(allocator);
    }
    pyo3::append_to_inittab!(redisgears);
    pyo3::append_to_inittab!(redis_ai);
    let program = CString::new("/usr/bin/python3").map_err(|error| error.to_string())?;
    let argument = CString::new("Embeded").map_err(|error| error.to_string())?;
    // SAFETY: the calls come in the order that the embedding guide asks for, on one thread, with
    // structures that were initialised by the functions meant for it.
    unsafe {
        let mut pre: ffi::PyPreConfig = std::mem::zeroed();
        ffi::PyPreConfig_InitIsolatedConfig(&raw mut pre);
        pre.utf8_mode = 1;
        check(ffi::Py_PreInitialize(&raw const pre))?;
        let mut config: ffi::PyConfig = std::mem::zeroed();
        ffi::PyConfig_InitIsolatedConfig(&raw mut config);
        config.install_signal_handlers = 0;
        config.parse_argv = 0;
        let slot = &raw mut config.program_name;
        check(ffi::PyConfig_SetBytesString(
            &raw mut config,
            slot,
            program.as_ptr(),
        ))?;
        let mut arguments = [argument.as_ptr().cast_mut()];
        check(ffi::PyConfig_SetBytesArgv(
            &raw mut config,
            1,
            arguments.as_mut_ptr().cast(),
        ))?;
        check(ffi::Py_InitializeFromConfig(&raw const config))?;
        ffi::PyConfig_Clear(&raw mut config);
        ffi::PyEval_SaveThread();
    }
    Ok(())
}

use super::api::{redis_ai, redisgears};

/// Python's name of the current thread.
pub(super) fn thread_ident(_py: Python<'_>) -> c_ulong {
    // SAFETY: takes nothing and reads the thread's id.
    unsafe { ffi::PyThread_get_thread_ident() as c_ulong }
}

/// Raises an exception in another thread at its next instruction. One that is waiting already is
/// replaced.
pub(super) fn raise_in(_py: Python<'_>, thread: c_ulong, exception: &Bound<'_, PyAny>) {
    // SAFETY: attached; the call takes its own reference and does nothing for unknown threads.
    let _: c_int = unsafe { ffi::PyThreadState_SetAsyncExc(thread as _, exception.as_ptr()) };
}

/// Whether a value is a generator.
pub(super) fn is_generator(value: &Bound<'_, PyAny>) -> bool {
    // SAFETY: attached, as the reference shows; the check only looks at the type.
    unsafe { ffi::PyGen_Check(value.as_ptr()) != 0 }
}

/// Whether a value is a coroutine.
pub(super) fn is_coroutine(value: &Bound<'_, PyAny>) -> bool {
    // SAFETY: as `is_generator`.
    unsafe { ffi::PyCoro_CheckExact(value.as_ptr()) != 0 }
}

/// Gives a coroutine a value, and lets it run; what it waits for, or returns.
pub(super) fn send<'py>(
    coroutine: &Bound<'py, PyAny>,
    value: &Bound<'py, PyAny>,
) -> PyResult<(bool, Bound<'py, PyAny>)> {
    let py = coroutine.py();
    let mut result = std::ptr::null_mut();
    // SAFETY: attached; both are references to objects, and the result is written in any case.
    let sent = unsafe { ffi::PyIter_Send(coroutine.as_ptr(), value.as_ptr(), &raw mut result) };
    // SAFETY: a new reference, or null with an exception set.
    let result = unsafe { Bound::from_owned_ptr_or_err(py, result) }?;
    Ok((sent == ffi::PySendResult::PYGEN_RETURN, result))
}

/// Context variables of a section.
pub(super) struct EnteredContext<'py>(Bound<'py, PyAny>);

/// Enters a new context on this thread: what a section leaves in context variables goes with it.
pub(super) fn enter_context(py: Python<'_>) -> PyResult<EnteredContext<'_>> {
    // SAFETY: attached; the new context is ours, and entered once.
    unsafe {
        let context = Bound::from_owned_ptr_or_err(py, ffi::PyContext_New())?;
        if ffi::PyContext_Enter(context.as_ptr()) != 0 {
            return Err(PyErr::fetch(py));
        }
        Ok(EnteredContext(context))
    }
}

impl EnteredContext<'_> {
    /// Leaves it.
    pub(super) fn leave(&self) {
        // SAFETY: attached. It fails where code left a context of its own entered; that one then
        // stays, and the error is taken away.
        unsafe {
            if ffi::PyContext_Exit(self.0.as_ptr()) != 0 {
                drop(PyErr::take(self.0.py()));
            }
        }
    }
}

/// Takes trace and profile functions off this thread, which others use next.
pub(super) fn stop_tracing(py: Python<'_>) {
    static GETTERS: OnceLock<[(Py<PyAny>, &str); 2]> = OnceLock::new();
    let stop = || -> PyResult<()> {
        let getters = match GETTERS.get() {
            Some(getters) => getters,
            None => {
                let sys = py.import("sys")?;
                let trace = sys.getattr("gettrace")?.unbind();
                let profile = sys.getattr("getprofile")?.unbind();
                GETTERS.get_or_init(|| [(trace, "settrace"), (profile, "setprofile")])
            }
        };
        for (get, set) in getters {
            if !get.bind(py).call0()?.is_none() {
                py.import("sys")?.call_method1(*set, (py.None(),))?;
            }
        }
        Ok(())
    };
    if let Err(error) = stop() {
        error.write_unraisable(py, None);
    }
}
