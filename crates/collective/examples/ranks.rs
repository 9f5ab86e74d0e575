//! What the ranks of an MPI job do right, and how fast: run by `tests/mpi/run`.
//!
//! `mpirun -n 4 ranks` checks sums, bits, agreement and overlap against the same work on threads;
//! `… ranks bench` measures; `… ranks fail|disagree` must end the job with an error. Without `mpirun` and a
//! number of ranks first (`ranks 4 bench`) it uses threads.

use std::time::Instant;

use yushan_collective::{
    Collective, Combine, Error, Overlap, Result, Threads, connect, even_parts,
};

fn main() -> std::process::ExitCode {
    let mut words: Vec<String> = std::env::args().skip(1).collect();
    let threads = words.first().and_then(|word| word.parse::<usize>().ok());
    if threads.is_some() {
        words.remove(0);
    }
    let what = words.first().map_or("check", String::as_str);
    let results: Vec<Result<()>> = match threads {
        None => vec![connect().and_then(|mut ranks| run(&mut *ranks, what))],
        Some(ranks) => std::thread::scope(|scope| {
            let start = |mut rank: Threads| scope.spawn(move || run(&mut rank, what));
            let threads: Vec<_> = Threads::group(ranks).into_iter().map(start).collect();
            threads.into_iter().filter_map(|thread| thread.join().ok()).collect()
        }),
    };
    let errors: Vec<_> = results.iter().filter_map(|result| result.as_ref().err()).collect();
    errors.iter().for_each(|error| eprintln!("error: {error}"));
    std::process::ExitCode::from(u8::from(!errors.is_empty()))
}

fn run(ranks: &mut dyn Collective, what: &str) -> Result<()> {
    match what {
        "bench" => bench(ranks)?,
        "fail" => fail(ranks)?,
        "disagree" => {
            let recipe: &[u8] = if ranks.rank() == 1 { b"another" } else { b"one" };
            ranks.agree("the recipe", recipe)?;
        }
        _ => check(ranks)?,
    }
    ranks.leave()
}

/// Rank 1 stops, the others wait for it: the launcher has to end them.
fn fail(ranks: &mut dyn Collective) -> Result<()> {
    if ranks.rank() == 1 {
        let detail = "rank 1 stops on purpose".to_string();
        return Err(Error::Argument { operation: "fail", detail });
    }
    ranks.all_reduce(&mut vec![1.0; 1000])
}

/// Values whose sum has other bits in any other order.
fn values(rank: usize, length: usize) -> Vec<f32> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64.wrapping_mul(rank as u64 + 1);
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let sign = if state & 1 == 0 { 1.0 } else { -1.0 };
        sign * (1.0 + (state >> 40) as f32 / 1e7) * 2f32.powi((state >> 8 & 31) as i32 - 16)
    };
    (0..length).map(|_| next()).collect()
}

fn sum_in_rank_order(ranks: usize, length: usize) -> Vec<f32> {
    let mut sum = values(0, length);
    for rank in 1..ranks {
        sum.iter_mut().zip(values(rank, length)).for_each(|(sum, value)| *sum += value);
    }
    sum
}

fn same(what: &str, got: &[f32], expected: &[f32]) {
    let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
    assert!(bits(got) == bits(expected), "{what} of {} values differs", expected.len());
}

fn check(c: &mut dyn Collective) -> Result<()> {
    let (rank, ranks) = (c.rank(), c.ranks());
    for length in [0, 1, 15, 17, 1000, (1 << 20) + 33, (1 << 23) + 5] {
        let expected = sum_in_rank_order(ranks, length);
        let mut sum = values(rank, length);
        c.all_reduce(&mut sum)?;
        same("all_reduce", &sum, &expected);

        let mut parts = even_parts(length, ranks);
        if ranks > 1 {
            let half = parts[0].end / 2; // as ZeRO cuts whole matrices
            (parts[0].end, parts[1].start) = (half, half);
        }
        let mut part = values(rank, length);
        c.reduce_scatter(&mut part, &parts)?;
        let own = parts[rank].clone();
        same("reduce_scatter", &part[own.clone()], &expected[own.clone()]);
        (0..length).filter(|i| !own.contains(i)).for_each(|i| part[i] = f32::NAN);
        c.all_gather(&mut part, &parts)?;
        same("all_gather", &part, &expected);

        let root = ranks - 1;
        let mut sent = values(rank, length);
        c.broadcast(&mut sent, root)?;
        same("broadcast", &sent, &values(root, length));
    }
    overlap(c)?;
    let (mut sums, mut greatest) = ([0.1 * rank as f64], [rank as f64]);
    c.combine(&mut sums, Combine::Sum)?;
    c.combine(&mut greatest, Combine::Max)?;
    assert_eq!(sums[0], (0..ranks).fold(0.0, |sum, rank| sum + 0.1 * rank as f64));
    assert_eq!(greatest[0], ranks as f64 - 1.0);
    c.agree("the recipe", b"one")?;
    let odd: &[u8] = if rank == ranks - 1 && ranks > 1 { b"other" } else { b"one" };
    let said = c.agree("the recipe", odd);
    let named =
        |error: Error| matches!(error, Error::Disagree { ranks: r, .. } if r == [ranks - 1]);
    assert!(ranks == 1 || said.is_err_and(named));
    let names = c.gather(format!("rank {rank}{}", "!".repeat(rank)).as_bytes())?;
    assert!(names.iter().enumerate().all(|(rank, name)| name.len() == 6 + rank));
    c.barrier()?;
    if rank == 0 {
        println!("{ranks} ranks: all right");
    }
    Ok(())
}

/// Buckets begun in the order of backward, with work in between that differs from rank to rank.
fn overlap(c: &mut dyn Collective) -> Result<()> {
    const LENGTH: usize = (1 << 22) + 1234;
    let expected = sum_in_rank_order(c.ranks(), LENGTH);
    for step in 0..3 {
        let mut sum = values(c.rank(), LENGTH);
        let mut overlap = Overlap::new();
        for i in (0..20).rev() {
            let range = LENGTH * i / 20..LENGTH * (i + 1) / 20;
            overlap.ready(c, &sum[range.clone()], range);
            std::hint::black_box(values(i, 10_000 * ((c.rank() + step) % 3)));
        }
        overlap.finish(c, &mut sum)?;
        same("overlapped sum", &sum, &expected);
    }
    Ok(())
}

/// Median seconds of one call, as rank 0 sees it.
fn seconds(c: &mut dyn Collective, calls: usize, call: &mut Call<'_>) -> Result<f64> {
    let mut times = Vec::new();
    call(c)?;
    for _ in 0..calls {
        c.barrier()?;
        let start = Instant::now();
        call(c)?;
        times.push(start.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    Ok(times[calls / 2])
}

type Call<'a> = dyn FnMut(&mut dyn Collective) -> Result<()> + 'a;

fn bench(c: &mut dyn Collective) -> Result<()> {
    let ranks = c.ranks() as f64;
    if c.rank() == 0 {
        println!("ranks bytes microseconds GB/s-through-a-rank");
    }
    for length in [1usize, 1 << 8, 1 << 12, 1 << 16, 1 << 18, 1 << 20, 1 << 22, 1 << 24] {
        let mut values = vec![1e-3; length];
        let calls = ((1 << 22) / length).clamp(5, 200);
        let took = seconds(c, calls, &mut |c| c.all_reduce(&mut values))?;
        let moved = 2.0 * (ranks - 1.0) / ranks * 4.0 * length as f64;
        if c.rank() == 0 {
            println!("{ranks} {} {:.1} {:.3}", 4 * length, 1e6 * took, moved / took / 1e9);
        }
    }
    Ok(())
}
