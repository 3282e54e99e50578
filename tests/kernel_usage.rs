//! `docs/KERNELS.md`: what the compiler makes of every variant's default kernels. Needs NVRTC, not a GPU.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use myelon_ccl::device::cuda::{Nvrtc, ResourceUsage};
use myelon_ccl::device::{DeviceKind, KernelSource};
use myelon_ccl::memory::HeapLimits;
use myelon_ccl::variant::{Choice, KernelKey, Manifest, Plan, Request, Shape, Terrain};
use myelon_ccl::{DType, Error, ReduceOp, WorldSize};
use object::{Object, ObjectSection};

const ARCH: &str = "sm_90a";
const RANKS: [u32; 3] = [2, 4, 8];
/// Bytes of a message, for every default that depends on it.
const SIZES: [u64; 6] = [1 << 10, 16 << 10, 256 << 10, 4 << 20, 64 << 20, 1 << 30];
/// What an instruction takes on Volta and newer.
const INSTRUCTION_BYTES: u64 = 16;
/// Rewrites the document in place of comparing it.
const BLESS_VARIABLE: &str = "MYELON_BLESS";

const INTRODUCTION: &str = "\
# Kernels

What ptxas makes of the default kernels of every variant: sums of f32, or moves of them, for 2, 4 and 8 ranks, in each shape that the
manifest gives them by size. Generated; a test holds it against the sources, with the NVRTC that is named below, and fails where one of
them spills. To write it again:

```
MYELON_BLESS=1 cargo test --test kernel_usage
```

Registers are those of a thread. Instructions are the machine code of the whole kernel, 16 bytes each, what is out of line and never
runs in a good operation included. Shared memory is that of a CTA, what its launch adds included.

";

/// A kernel, and the dynamic shared memory of its launch.
struct Default {
    key: KernelKey,
    shared_bytes: u32,
}

/// What became of it.
struct Compiled {
    usage: ResourceUsage,
    instructions: u64,
}

/// Each kernel once, in the manifest's order.
fn defaults() -> Vec<Default> {
    let mut defaults: Vec<Default> = Vec::new();
    for variant in Manifest::embedded().all().filter(|variant| variant.enabled && variant.runs_on(ARCH).is_ok()) {
        for world_size in RANKS.map(|ranks| WorldSize::new(ranks).unwrap()) {
            let (layout, _) = HeapLimits::of(DeviceKind::Cuda, world_size).layout(world_size).unwrap();
            let terrain = Terrain::of(DeviceKind::Cuda, world_size, &layout, ARCH);
            for bytes in SIZES {
                let request = Request { count: bytes / 4, dtype: DType::F32, op: ReduceOp::Sum, registered: false };
                let choice = Choice { variant: Arc::clone(variant), shape: Shape::default() };
                let plan = Plan::new(&terrain, &request, &choice).unwrap();
                let of_buckets = variant.buckets.then(|| plan.clone().of_buckets().unwrap());
                for plan in [Some(plan), of_buckets].into_iter().flatten() {
                    if !defaults.iter().any(|known| known.key == plan.kernel) {
                        defaults.push(Default { key: plan.kernel, shared_bytes: plan.shared_bytes });
                    }
                }
            }
        }
    }
    defaults
}

fn compile(compiler: &Nvrtc, source: &KernelSource) -> Compiled {
    let (usage, image) = compiler.resources_and_code(source).unwrap_or_else(|error| panic!("{error}"));
    let elf = object::File::parse(&*image).unwrap();
    let code = elf.section_by_name(".text.myelon_kernel").expect("the machine code of the kernel");
    Compiled { usage, instructions: code.size() / INSTRUCTION_BYTES }
}

fn compile_all(compiler: &Nvrtc, defaults: &[Default]) -> Vec<Compiled> {
    let next = AtomicUsize::new(0);
    let done: Mutex<Vec<Option<Compiled>>> = Mutex::new(defaults.iter().map(|_| None).collect());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let turn = next.fetch_add(1, Ordering::Relaxed);
                    let Some(default) = defaults.get(turn) else { break };
                    let compiled = compile(compiler, &default.key.source());
                    done.lock().unwrap()[turn] = Some(compiled);
                }
            });
        }
    });
    done.into_inner().unwrap().into_iter().map(Option::unwrap).collect()
}

/// What the document says of its compiler.
fn compiler_line(compiler: &Nvrtc) -> String {
    format!("NVRTC {}, {ARCH}.\n", compiler.version())
}

fn document(compiler: &Nvrtc, defaults: &[Default], compiled: &[Compiled]) -> String {
    let mut text = format!("{INTRODUCTION}{}", compiler_line(compiler));
    text.push_str("\n| variant | ranks | threads | registers | spilled bytes | shared bytes | instructions |\n");
    text.push_str("|:---|---:|---:|---:|---:|---:|---:|\n");
    for (Default { key, shared_bytes }, Compiled { usage, instructions }) in defaults.iter().zip(compiled) {
        let ResourceUsage { registers, spill_bytes, static_shared_bytes } = usage;
        writeln!(
            text,
            "| `{}`{} | {} | {} | {registers} | {spill_bytes} | {} | {instructions} |",
            key.variant.name,
            if key.buckets { " of buckets" } else { "" },
            key.world_size,
            key.threads,
            static_shared_bytes + shared_bytes
        )
        .unwrap();
    }
    text
}

#[test]
fn the_document_is_up_to_date_and_no_default_spills() {
    let compiler = match Nvrtc::new(ARCH) {
        Ok(compiler) => compiler,
        Err(error @ (Error::LibraryMissing { .. } | Error::Unsupported(_))) => {
            println!("skipped: {error}");
            return;
        }
        Err(error) => panic!("{error}"),
    };
    let defaults = defaults();
    let compiled = compile_all(&compiler, &defaults);
    let spilling = defaults.iter().zip(&compiled).filter(|(_, compiled)| compiled.usage.spill_bytes > 0);
    let spilling: Vec<_> =
        spilling.map(|(default, compiled)| format!("{}: {:?}", default.key, compiled.usage)).collect();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/KERNELS.md");
    let fresh = document(&compiler, &defaults, &compiled);
    if std::env::var(BLESS_VARIABLE).is_ok_and(|value| value == "1") {
        std::fs::write(&path, &fresh).unwrap();
    }
    assert!(spilling.is_empty(), "registers are spilled by {}", spilling.join("\n"));
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    if !committed.is_empty() && !committed.contains(&compiler_line(&compiler)) {
        println!("not compared: docs/KERNELS.md is of another NVRTC than {}", compiler.version());
        return;
    }
    assert!(
        fresh == committed,
        "docs/KERNELS.md is not what the sources compile to: {BLESS_VARIABLE}=1 cargo test --test kernel_usage"
    );
}
