//! Kernels in a GPU's context: loaded once for all devices of the process that stand for this GPU, and for as long as one of them lives.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::driver::{Context, log_failure};
use super::module::{self, Module};
use crate::device::{KernelHandle, KernelImage};
use crate::error::Result;

/// WHY: a program that makes communicators again and again would fill the GPU with copies of their kernels.
static GPUS: Mutex<BTreeMap<u32, Weak<Loaded>>> = Mutex::new(BTreeMap::new());

/// By the file that each was loaded from, whose name is a hash of what is in it.
#[derive(Debug)]
pub(super) struct Loaded {
    context: Context,
    modules: Mutex<HashMap<PathBuf, Module>>,
}

impl Loaded {
    /// Those of a GPU.
    pub(super) fn on(ordinal: u32, context: &Context) -> Arc<Self> {
        let mut gpus = GPUS.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(loaded) = gpus.get(&ordinal).and_then(Weak::upgrade) {
            return loaded;
        }
        let loaded = Arc::new(Self { context: context.clone(), modules: Mutex::default() });
        gpus.insert(ordinal, Arc::downgrade(&loaded));
        loaded
    }

    pub(super) fn kernel(&self, image: &KernelImage) -> Result<KernelHandle> {
        let mut modules = self.modules();
        if let Some(module) = modules.get(&image.path) {
            return Ok(module.kernel);
        }
        let module = module::load(&self.context, image)?;
        let kernel = module.kernel;
        modules.insert(image.path.clone(), module);
        Ok(kernel)
    }

    fn modules(&self) -> MutexGuard<'_, HashMap<PathBuf, Module>> {
        self.modules.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        for (_, module) in self.modules().drain() {
            // SAFETY: no device of this GPU is left, and nobody else has the module's kernel.
            log_failure(unsafe { module.unload(&self.context) });
        }
    }
}
