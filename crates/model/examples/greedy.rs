use yushan_abi::*;
use yushan_model::engine::*;
use yushan_model::*;
fn main() {
    let a: Vec<String> = std::env::args().collect();
    let file = ModelFile::open(a[1].as_ref()).unwrap();
    let t = std::time::Instant::now();
    let mut e = Engine::load(
        &file,
        &Options { threads: a[2].parse().unwrap(), ..Options::for_file(&file) },
    )
    .unwrap();
    println!("load {:?} {:.1} MB", t.elapsed(), e.weight_bytes_per_token() as f64 / 1e6);
    for _ in 0..3 {
        e.clear_cache();
        let prompt: Vec<u32> = (0..512)
            .map(|i| (i * 31 % 5000 + 1) as u32 % file.config().vocabulary as u32)
            .collect();
        let s = e.admit(&prompt).unwrap().sequence;
        let t = std::time::Instant::now();
        e.step(&[Chunk { sequence: s, tokens: &prompt, logits: Logits::Last }]).unwrap();
        let p = 512.0 / t.elapsed().as_secs_f64();
        e.release(s).unwrap();
        e.clear_cache();
        let s = e.admit(&[1]).unwrap().sequence;
        let t = std::time::Instant::now();
        let mut tok = 1u32;
        for _ in 0..128 {
            let o = e.step(&[Chunk { sequence: s, tokens: &[tok], logits: Logits::Last }]).unwrap();
            let r = o.row(0);
            tok = (0..r.len()).max_by(|&a, &b| r[a].total_cmp(&r[b])).unwrap() as u32;
        }
        let d = 128.0 / t.elapsed().as_secs_f64();
        e.release(s).unwrap();
        println!(
            "prefill {p:.1} decode {d:.1} tok/s = {:.1} GB/s",
            d * e.weight_bytes_per_token() as f64 / 1e9
        );
    }
}
