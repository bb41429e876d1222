//! Folders of requirements as places where modules are imported from.

use std::path::{Path, PathBuf};

use pyo3::prelude::*;
use pyo3::types::PyModule;
use std::sync::OnceLock;

use super::super::error::error_text;

const PACKAGES: &str = include_str!("../../../python/prelude/packages.py");
const MODULE_NAME: &str = "_geartrain_packages";

static MODULE: OnceLock<Py<PyModule>> = OnceLock::new();

/// The module, loaded at its first use.
fn module(py: Python<'_>) -> PyResult<&Bound<'_, PyModule>> {
    if let Some(module) = MODULE.get() {
        return Ok(module.bind(py));
    }
    let module = PyModule::new(py, MODULE_NAME)?;
    let builtins = py.import("builtins")?;
    module.setattr("__builtins__", &builtins)?;
    let code = builtins.call_method1("compile", (PACKAGES, "<geartrain>", "exec"))?;
    builtins.call_method1("exec", (code, module.dict()))?;
    Ok(MODULE.get_or_init(|| module.unbind()).bind(py))
}

/// A folder, and the packages in it.
pub(super) type Place = (PathBuf, Vec<String>);

/// Has packages looked for in these folders before all others, in the last one first.
pub(super) fn prefer(places: &[Place]) -> Result<(), String> {
    Python::attach(|py| {
        let used = module(py).and_then(|module| {
            let places = places.iter();
            let places: Vec<_> = places
                .map(|(folder, names)| (folder.to_string_lossy(), names))
                .collect();
            module.call_method1("prefer", (places,))
        });
        used.map(drop).map_err(|error| error_text(py, &error))
    })
}

/// Has nothing looked for in a folder any more.
pub(super) fn forget(folder: &Path) -> Result<(), String> {
    Python::attach(|py| {
        let gone = module(py)
            .and_then(|module| module.call_method1("forget", (folder.to_string_lossy(),)));
        gone.map(drop).map_err(|error| error_text(py, &error))
    })
}

/// Loads the cloudpickle that functions travel by.
pub(in crate::python) fn load_own_cloudpickle(py: Python<'_>) -> PyResult<()> {
    module(py)?.call_method0("load_own_cloudpickle").map(drop)
}
