//! Invariant 6: decoding allocates nothing per token once its buffers have grown.
#![allow(unsafe_code)] // the counting allocator, nothing else

mod tiny;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use yushan_abi::{Chunk, Executor, Logits, Sampling};
use yushan_model::ModelFile;
use yushan_model::engine::{Engine, Options};
use yushan_model::sampler::Sampler;
use yushan_tensor::DType;

/// The system's allocator, counted.
struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is handed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as the caller promised.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(start, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn decoding_allocates_nothing_per_token() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    for dtype in [DType::Q8_0, DType::Q4_K, DType::F16] {
        tiny::write(&path, dtype, 512);
        let file = ModelFile::open(&path).unwrap();
        let options =
            Options { threads: 2, context: 256, sequences: 2, ..Options::for_file(&file) };
        let mut engine = Engine::load(&file, &options).unwrap();
        let mut sampler = Sampler::new(Sampling::llama_cpp(), engine.vocabulary()).unwrap();
        let open = [1, 2].map(|first| engine.admit("", &[first]).unwrap().sequence);
        let mut tokens = [1, 2];
        let mut steps = |engine: &mut Engine, count: usize| {
            for _ in 0..count {
                let chunks = [0, 1].map(|i| Chunk {
                    sequence: open[i],
                    tokens: std::slice::from_ref(&tokens[i]),
                    logits: Logits::Last,
                });
                let output = engine.step(&chunks).unwrap();
                let next = [0, 1].map(|row| sampler.sample(output.row(row), None));
                next.iter().for_each(|&token| sampler.accept(token));
                tokens = next;
            }
        };
        steps(&mut engine, 40);
        // Each stretch is longer than a page: taking pages and filing them in the tree is counted in.
        // A thread makes its scratch when it first gets a chunk, which on a busy machine may be late,
        // so one stretch without any allocation is asked for; one per token would show in all.
        let least = (0..5).map(|_| {
            let before = ALLOCATIONS.load(Ordering::Relaxed);
            steps(&mut engine, 40);
            ALLOCATIONS.load(Ordering::Relaxed) - before
        });
        assert_eq!(least.min(), Some(0), "{dtype}");
    }
}
