//! Compiled kernels: loading them, how many CTAs fit together, and launching.

use std::ffi::{c_int, c_void};

use cudarc::driver::sys::{
    CUdevice_attribute as Attribute, CUfunction, CUfunction_attribute as FunctionAttribute, CUlaunchAttribute,
    CUlaunchAttributeID, CUlaunchAttributeValue, CUlaunchConfig, CUmodule,
};

use super::driver::{Context, CudaVersion, driver_call, log_failure};
use super::{stream, topology};
use crate::device::{KernelHandle, KernelImage, LaunchShape, StreamHandle};
use crate::error::{Error, Result};

/// Name that every entry file exports.
const ENTRY: &std::ffi::CStr = c"myelon_kernel";

fn raw(kernel: KernelHandle) -> CUfunction {
    kernel.0 as usize as CUfunction
}

/// A loaded module and its one kernel.
#[derive(Debug)]
pub(super) struct Module {
    module: u64,
    pub(super) kernel: KernelHandle,
}

impl Module {
    /// # Safety
    /// Nothing that is queued or running uses the kernel, nor will.
    pub(super) unsafe fn unload(self, context: &Context) -> Result<()> {
        let _relaxed = context.bind_relaxed()?;
        // SAFETY: loaded by `load`, and given back once, for `self` goes; the rest is the caller's promise.
        unsafe { driver_call!(cuModuleUnload(self.module as usize as CUmodule)) }
    }
}

pub(super) fn load(context: &Context, image: &KernelImage) -> Result<Module> {
    let code = std::fs::read(&image.path)
        .map_err(|error| Error::at_path("reading the compiled kernel", &image.path, error))?;
    if !code.starts_with(b"\x7fELF") {
        // WHY: the driver finds the length of an image in the image, so a truncated or foreign file must not reach it.
        return Err(Error::invalid(format!(
            "{} is no machine code for {}: delete it and compile again",
            image.path.display(),
            image.name
        )));
    }
    let _relaxed = context.bind_relaxed()?;
    let mut module: CUmodule = std::ptr::null_mut();
    let mut function: CUfunction = std::ptr::null_mut();
    // SAFETY: the image is an ELF file as NVRTC wrote it and lives through the call; the handles go to locals.
    unsafe {
        driver_call!(cuModuleLoadData(&mut module, code.as_ptr().cast()))?;
        driver_call!(cuModuleGetFunction(&mut function, module, ENTRY.as_ptr()))
    }
    .and_then(|()| load_now(context, function))
    .and_then(|()| allow_shared_memory(context, function))
    .inspect_err(|_| {
        // SAFETY: loaded above, and its function is not given out.
        log_failure(unsafe { driver_call!(cuModuleUnload(module)) });
    })?;
    Ok(Module { module: module as usize as u64, kernel: KernelHandle(function as usize as u64) })
}

/// WHY: with lazy loading the code would be uploaded at the first launch, which waits for the GPU to be idle, while a
/// peer's kernel already spins for ours.
fn load_now(context: &Context, function: CUfunction) -> Result<()> {
    if context.driver.version >= (CudaVersion { major: 12, minor: 4 }) {
        // SAFETY: the function was just found in a live module.
        return unsafe { driver_call!(cuFuncLoad(function)) };
    }
    function_attribute(function, FunctionAttribute::CU_FUNC_ATTRIBUTE_NUM_REGS).map(drop)
}

/// Raises the kernel's limit on dynamic shared memory to all the GPU has, once, so that no launch has to.
fn allow_shared_memory(context: &Context, function: CUfunction) -> Result<()> {
    let all = topology::attribute(
        context.inner().cu_device(),
        Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN,
    )?;
    let fixed = function_attribute(function, FunctionAttribute::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES)?;
    let dynamic = c_int::try_from(all).unwrap_or(0) - fixed;
    let attribute = FunctionAttribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
    // SAFETY: the function is of a live module.
    unsafe { driver_call!(cuFuncSetAttribute(function, attribute, dynamic)) }
}

fn function_attribute(function: CUfunction, attribute: FunctionAttribute) -> Result<c_int> {
    let mut value: c_int = 0;
    // SAFETY: the function is of a live module; the value goes to a local.
    unsafe { driver_call!(cuFuncGetAttribute(&mut value, attribute, function)) }?;
    Ok(value)
}

/// CTAs of one multiprocessor.
pub(super) fn resident_per_multiprocessor(
    context: &Context,
    kernel: KernelHandle,
    block: u32,
    shared_bytes: u32,
) -> Result<u32> {
    context.bind()?;
    let threads = c_int::try_from(block).map_err(|_| Error::invalid(format!("a block of {block} threads")))?;
    let mut resident: c_int = 0;
    // SAFETY: the kernel is loaded on this device: the common contract; the count goes to a local.
    unsafe {
        driver_call!(cuOccupancyMaxActiveBlocksPerMultiprocessor(
            &mut resident,
            raw(kernel),
            threads,
            shared_bytes as usize
        ))
    }?;
    Ok(u32::try_from(resident).unwrap_or(0))
}

/// # Safety
/// As [`crate::device::Device::launch`].
pub(super) unsafe fn launch(
    context: &Context,
    kernel: KernelHandle,
    shape: LaunchShape,
    args: &[u8],
    stream: StreamHandle,
) -> Result<()> {
    context.bind()?;
    let mut dependent = CUlaunchAttribute {
        id: CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
        pad: [0; 4],
        value: CUlaunchAttributeValue { programmaticStreamSerializationAllowed: 1 },
    };
    let config = CUlaunchConfig {
        gridDimX: shape.grid,
        gridDimY: 1,
        gridDimZ: 1,
        blockDimX: shape.block,
        blockDimY: 1,
        blockDimZ: 1,
        sharedMemBytes: shape.shared_bytes,
        hStream: stream::raw(stream),
        attrs: &mut dependent,
        numAttrs: u32::from(shape.dependent),
    };
    // CU_LAUNCH_PARAM_BUFFER_POINTER, _BUFFER_SIZE and _END of cuda.h: keys 1 and 2, and 0 for the end.
    let mut size = args.len();
    let mut extra: [*mut c_void; 5] = [
        std::ptr::without_provenance_mut(1),
        args.as_ptr().cast_mut().cast(),
        std::ptr::without_provenance_mut(2),
        (&raw mut size).cast(),
        std::ptr::null_mut(),
    ];
    // SAFETY: the driver copies config, attribute and arguments before it returns, also in a capture; that the bytes
    // are what the kernel takes is the caller's promise.
    unsafe { driver_call!(cuLaunchKernelEx(&config, raw(kernel), std::ptr::null_mut(), extra.as_mut_ptr())) }
}
