//! NVRTC: kernels compiled at run time, straight to the machine code of one architecture.

use std::ffi::{CStr, CString, c_char, c_int};
use std::path::Path;

use super::driver::CudaVersion;
use super::nvrtc_library::{Library, Program};
use super::usage::{ResourceUsage, resource_usage};
use crate::device::{Compiler, KernelSource, source};
use crate::error::{Error, Result};

const ERROR_COMPILATION: c_int = 6;
/// Has profilers and sanitizers name lines of the sources.
const LINES: &CStr = c"-lineinfo";
/// First release that caches results, in the driver's cache and where there is a driver (NVRTC's manual, "Caching").
const FIRST_WITH_CACHE: CudaVersion = CudaVersion { major: 12, minor: 9 };

/// Compiles for one architecture; safe to use from several threads, each with a program of its own.
#[derive(Debug)]
pub struct Nvrtc {
    nvrtc: Library,
    arch: String,
    options: Vec<CString>,
}

impl Nvrtc {
    /// A compiler for `arch` (`sm_90a`), whatever the machine's driver: nothing but files need come of it.
    ///
    /// Errors: [`Error::LibraryMissing`] without NVRTC, [`Error::Unsupported`] where it does not know `arch`.
    pub fn new(arch: &str) -> Result<Self> {
        Self::open(arch, None)
    }

    /// A compiler whose output this driver can load.
    ///
    /// Errors: as [`Nvrtc::new`]; an NVRTC newer than the driver is passed over, and named where no other is found.
    pub fn for_driver(arch: &str, driver: CudaVersion) -> Result<Self> {
        Self::open(arch, Some(driver))
    }

    fn open(arch: &str, driver: Option<CudaVersion>) -> Result<Self> {
        let library = Library::open(driver)?;
        let compiler = Self { options: options(arch, library.version)?, arch: arch.to_owned(), nvrtc: library };
        compiler.check_arch()?;
        Ok(compiler)
    }

    /// Release of the library.
    pub fn version(&self) -> CudaVersion {
        self.nvrtc.version
    }

    /// Name or path that the library was opened by.
    pub fn origin(&self) -> &str {
        &self.nvrtc.origin
    }

    /// Architecture it compiles for.
    pub fn arch(&self) -> &str {
        &self.arch
    }

    /// What ptxas says of a kernel, without keeping the kernel.
    ///
    /// Errors: [`Error::Compile`].
    pub fn resources(&self, source: &KernelSource) -> Result<ResourceUsage> {
        self.resources_and_code(source).map(|(usage, _)| usage)
    }

    /// As [`Self::resources`], with the kernel: a CUBIN, which is an ELF file, without what a debugger would read.
    ///
    /// Errors: [`Error::Compile`].
    pub fn resources_and_code(&self, source: &KernelSource) -> Result<(ResourceUsage, Vec<u8>)> {
        let (code, log) = self.machine_code(source, source::files()?, false)?;
        match resource_usage(&log) {
            Some(usage) => Ok((usage, code)),
            None => Err(Error::Compile { kernel: source.name.clone(), log }),
        }
    }

    fn check_arch(&self) -> Result<()> {
        let mut count = 0;
        // SAFETY: the count goes to a local.
        self.nvrtc.check("nvrtcGetNumSupportedArchs", unsafe {
            (self.nvrtc.functions.nvrtcGetNumSupportedArchs)(&mut count)
        })?;
        let mut known: Vec<c_int> = vec![0; usize::try_from(count).unwrap_or(0)];
        // SAFETY: the array holds as many entries as NVRTC just said it writes.
        self.nvrtc.check("nvrtcGetSupportedArchs", unsafe {
            (self.nvrtc.functions.nvrtcGetSupportedArchs)(known.as_mut_ptr())
        })?;
        match arch_number(&self.arch) {
            Some(number) if known.contains(&number) => Ok(()),
            _ => Err(Error::unsupported(format!(
                "NVRTC {} ({}) cannot compile for '{}': it knows {}; MYELON_NVRTC_LIB can name another release",
                self.nvrtc.version,
                self.nvrtc.origin,
                self.arch,
                known.iter().map(|arch| format!("sm_{arch}")).collect::<Vec<_>>().join(", ")
            ))),
        }
    }

    /// Compiles over `headers` (name, text); gives the machine code, with or without its lines, and the compiler's log.
    // Measured (2 cores, 2026-11-27): lines are a twelfth of a compile, and change no instruction.
    fn machine_code(&self, source: &KernelSource, headers: &[(&str, &str)], lines: bool) -> Result<(Vec<u8>, String)> {
        let failed = |log: String| Error::Compile { kernel: source.name.clone(), log };
        let text =
            |text: &str| CString::new(text).map_err(|_| failed("the source or a header has a zero byte in it".into()));
        let entry = text(&source.entry)?;
        let name = text(&format!("{}.cu", source.name))?;
        let names = headers.iter().map(|(name, _)| text(name)).collect::<Result<Vec<_>>>()?;
        let texts = headers.iter().map(|(_, header)| text(header)).collect::<Result<Vec<_>>>()?;
        let (names, texts) = (pointers(&names), pointers(&texts));
        let options: Vec<_> =
            self.options.iter().map(|option| option.as_c_str()).filter(|option| lines || *option != LINES).collect();
        let options = pointers(&options);

        let mut program = OpenProgram { handle: std::ptr::null_mut(), nvrtc: &self.nvrtc };
        // SAFETY: both arrays have as many terminated strings as the count says; NVRTC copies what it is given.
        self.nvrtc.check("nvrtcCreateProgram", unsafe {
            (self.nvrtc.functions.nvrtcCreateProgram)(
                &mut program.handle,
                entry.as_ptr(),
                name.as_ptr(),
                names.len() as c_int,
                texts.as_ptr(),
                names.as_ptr(),
            )
        })?;
        // SAFETY: the program exists; the array has as many terminated strings as the count says.
        let outcome = unsafe {
            (self.nvrtc.functions.nvrtcCompileProgram)(program.handle, options.len() as c_int, options.as_ptr())
        };
        let log = program.log()?;
        if outcome == ERROR_COMPILATION {
            return Err(failed(log));
        }
        self.nvrtc.check("nvrtcCompileProgram", outcome).map_err(|error| failed(format!("{error}\n{log}")))?;
        Ok((program.cubin()?, log))
    }
}

impl Compiler for Nvrtc {
    fn identity(&self) -> String {
        let options: Vec<_> = self.options.iter().map(|option| option.to_string_lossy()).collect();
        format!("nvrtc {} ({} bytes) {}", self.nvrtc.version, self.nvrtc.file_bytes, options.join(" "))
    }

    fn extension(&self) -> &'static str {
        "cubin"
    }

    fn compile(&self, source: &KernelSource, output: &Path) -> Result<()> {
        let (code, log) = self.machine_code(source, source::files()?, true)?;
        if let Some(usage) = resource_usage(&log).filter(|usage| usage.spill_bytes > 0) {
            tracing::warn!(kernel = %source.name, spilled = usage.spill_bytes, registers = usage.registers, "kernel spills registers");
        }
        tracing::debug!(kernel = %source.name, arch = %self.arch, bytes = code.len(), log = %log.trim_end(), "compiled");
        std::fs::write(output, code).map_err(|error| Error::at_path("writing the compiled kernel", output, error))
    }
}

/// A program that is destroyed when dropped.
struct OpenProgram<'a> {
    handle: Program,
    nvrtc: &'a Library,
}

impl OpenProgram<'_> {
    fn log(&self) -> Result<String> {
        // SAFETY: each function gets the live program and room of the size that NVRTC gave.
        let bytes = unsafe {
            self.read(
                "nvrtcGetProgramLog",
                self.nvrtc.functions.nvrtcGetProgramLogSize,
                self.nvrtc.functions.nvrtcGetProgramLog,
            )?
        };
        Ok(String::from_utf8_lossy(&bytes).trim_end_matches('\0').to_owned())
    }

    fn cubin(&self) -> Result<Vec<u8>> {
        // SAFETY: as in `log`.
        unsafe {
            self.read("nvrtcGetCUBIN", self.nvrtc.functions.nvrtcGetCUBINSize, self.nvrtc.functions.nvrtcGetCUBIN)
        }
    }

    /// # Safety
    /// `size` and `content` are a pair of NVRTC's: the first gives the bytes that the second writes.
    unsafe fn read(
        &self,
        call: &'static str,
        size: unsafe extern "C" fn(Program, *mut usize) -> c_int,
        content: unsafe extern "C" fn(Program, *mut c_char) -> c_int,
    ) -> Result<Vec<u8>> {
        let mut bytes = 0;
        // SAFETY: the program is live; the size goes to a local.
        self.nvrtc.check(call, unsafe { size(self.handle, &mut bytes) })?;
        let mut buffer = vec![0u8; bytes];
        // SAFETY: the buffer has the size that the pair's first function gave.
        self.nvrtc.check(call, unsafe { content(self.handle, buffer.as_mut_ptr().cast()) })?;
        Ok(buffer)
    }
}

impl Drop for OpenProgram<'_> {
    fn drop(&mut self) {
        if !self.handle.is_null() {
            // SAFETY: created by nvrtcCreateProgram and not used afterwards.
            unsafe { (self.nvrtc.functions.nvrtcDestroyProgram)(&mut self.handle) };
        }
    }
}

fn options(arch: &str, version: CudaVersion) -> Result<Vec<CString>> {
    let arch = CString::new(format!("--gpu-architecture={arch}"))
        .map_err(|_| Error::invalid(format!("architecture {arch:?} has a zero byte in it")))?;
    let mut options = vec![arch, c"--std=c++17".into(), LINES.into(), c"--ptxas-options=-v".into()];
    // WHY: the host's compilers have this builtin and NVRTC does not; the sources assert the layout of shared structures
    // with it. The operator is the one that NVRTC folds to a constant.
    options.push(c"-D__builtin_offsetof(type,member)=__INTADDR__(&((type*)0)->member)".into());
    // WHY: results have a cache of ours, and a hit in NVRTC's own gives no log to read registers and spills from.
    if version >= FIRST_WITH_CACHE {
        options.push(c"--no-cache".into());
    }
    Ok(options)
}

fn pointers(strings: &[impl AsRef<CStr>]) -> Vec<*const c_char> {
    strings.iter().map(|string| string.as_ref().as_ptr()).collect()
}

/// 90 of `sm_90a`.
fn arch_number(arch: &str) -> Option<c_int> {
    arch.strip_prefix("sm_")?.trim_end_matches(['a', 'f']).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nvrtc_or_skip(arch: &str) -> Option<Nvrtc> {
        match Nvrtc::new(arch) {
            Ok(nvrtc) => Some(nvrtc),
            Err(error @ Error::LibraryMissing { .. }) => {
                println!("skipped: {error}");
                None
            }
            Err(error) => panic!("{error}"),
        }
    }

    fn kernel(entry: &str) -> KernelSource {
        KernelSource { name: "scale<f32>".into(), entry: entry.into() }
    }

    const HEADERS: &[(&str, &str)] = &[
        ("base/factor.cuh", "#pragma once\n__device__ inline float factor() { return 3.0f; }\n"),
        (
            "algo/scale.cuh",
            "#pragma once\n#include \"base/factor.cuh\"\nextern \"C\" __global__ void myelon_kernel(float* x) { x[threadIdx.x] *= factor(); }\n",
        ),
    ];

    #[test]
    fn a_kernel_over_headers_in_memory_becomes_machine_code() {
        let Some(nvrtc) = nvrtc_or_skip("sm_90a") else { return };
        let (code, log) = nvrtc.machine_code(&kernel("#include \"algo/scale.cuh\"\n"), HEADERS, true).unwrap();
        assert_eq!(&code[..4], b"\x7fELF");
        let usage = resource_usage(&log).unwrap_or_else(|| panic!("no usage in: {log}"));
        assert!(usage.registers > 0 && usage.spill_bytes == 0, "{usage:?}");
        assert!(nvrtc.identity().contains("sm_90a") && nvrtc.identity().contains(&nvrtc.version().to_string()));
    }

    #[test]
    fn offsets_are_asserted_as_on_the_host() {
        let Some(nvrtc) = nvrtc_or_skip("sm_90a") else { return };
        let asserting = |offset: u32| {
            let entry = format!(
                "struct Pair {{ int first, second; }};\n\
                 static_assert(__builtin_offsetof(Pair, second) == {offset}, \"Pair differs\");\n\
                 extern \"C\" __global__ void myelon_kernel() {{}}\n"
            );
            nvrtc.machine_code(&kernel(&entry), &[], true)
        };
        assert!(asserting(4).is_ok());
        assert!(asserting(8).unwrap_err().to_string().contains("Pair differs"));
    }

    #[test]
    fn an_error_in_a_header_names_header_and_kernel() {
        let Some(nvrtc) = nvrtc_or_skip("sm_90a") else { return };
        let headers = [("base/broken.cuh", "int broken( { }\n")];
        let error = nvrtc.machine_code(&kernel("#include \"base/broken.cuh\"\n"), &headers, true).unwrap_err();
        assert!(matches!(error, Error::Compile { .. }), "{error}");
        let message = error.to_string();
        assert!(message.contains("scale<f32>") && message.contains("broken.cuh"), "{message}");
    }

    #[test]
    fn a_zero_byte_is_an_error_and_not_a_shorter_kernel() {
        let Some(nvrtc) = nvrtc_or_skip("sm_90a") else { return };
        let error = nvrtc.machine_code(&kernel("int a;\0int b;"), &[], true).unwrap_err();
        assert!(error.to_string().contains("zero byte"), "{error}");
    }

    #[test]
    fn an_unknown_architecture_lists_the_known_ones() {
        if nvrtc_or_skip("sm_90a").is_none() {
            return;
        }
        assert!(Nvrtc::new("sm_90\0a").unwrap_err().to_string().contains("zero byte"));
        for arch in ["sm_12", "cpu", ""] {
            let message = Nvrtc::new(arch).unwrap_err().to_string();
            assert!(message.contains(&format!("'{arch}'")) && message.contains("sm_90"), "{message}");
        }
    }

    #[test]
    fn the_search_names_a_compiler_it_turned_down() {
        if nvrtc_or_skip("sm_90a").is_none() {
            return;
        }
        let error = Nvrtc::for_driver("sm_90a", CudaVersion { major: 11, minor: 0 }).unwrap_err();
        assert!(matches!(error, Error::LibraryMissing { .. }), "{error}");
        assert!(error.to_string().contains("newer than the driver"), "{error}");
    }
}
