//! Ranks that are threads: the algebra, the bits, and what happens when one fails.

use yushan_collective::{Alone, Collective, Combine, Error, Overlap, Result, Threads, even_parts};

/// Runs `work` on every rank of a group of threads, and returns what each made of it.
fn on_ranks<T: Send>(ranks: usize, work: impl Fn(&mut dyn Collective) -> T + Sync) -> Vec<T> {
    std::thread::scope(|scope| {
        let work = &work;
        let start = |mut rank: Threads| scope.spawn(move || work(&mut rank));
        let threads: Vec<_> = Threads::group(ranks).into_iter().map(start).collect();
        threads.into_iter().map(|thread| thread.join().expect("a rank panicked")).collect()
    })
}

/// Values of all magnitudes and signs, so that any other order of a sum shows in its bits.
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

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// Lengths around the borders of lines and of pieces (2^19).
const LENGTHS: [usize; 6] = [0, 1, 15, 17, 1000, (1 << 19) + 33];

#[test]
fn sums_are_taken_in_rank_order_on_every_rank() {
    for ranks in 1..=8 {
        for length in LENGTHS {
            let expected = bits(&sum_in_rank_order(ranks, length));
            for (rank, got) in on_ranks(ranks, |c| {
                let mut values = values(c.rank(), length);
                c.all_reduce(&mut values).map(|()| bits(&values))
            })
            .into_iter()
            .enumerate()
            {
                assert!(got.as_ref() == Ok(&expected), "rank {rank} of {ranks}, {length} values");
            }
        }
    }
}

#[test]
fn scatter_and_gather_together_are_an_all_reduce() {
    for ranks in 1..=8 {
        for length in LENGTHS {
            let expected = bits(&sum_in_rank_order(ranks, length));
            let mut uneven = even_parts(length, ranks);
            if ranks > 1 {
                let half = uneven[0].end / 2; // as ZeRO cuts whole matrices
                (uneven[0].end, uneven[1].start) = (half, half);
            }
            for parts in [even_parts(length, ranks), uneven] {
                let got = on_ranks(ranks, |c| -> Result<_> {
                    let mut values = values(c.rank(), length);
                    c.reduce_scatter(&mut values, &parts)?;
                    let own = parts[c.rank()].clone();
                    let scattered = bits(&values[own.clone()]) == expected[own.clone()];
                    (0..length).filter(|i| !own.contains(i)).for_each(|i| values[i] = f32::NAN);
                    c.all_gather(&mut values, &parts)?;
                    Ok((scattered, bits(&values)))
                });
                for got in got {
                    let (scattered, all) = got.expect("no rank fails");
                    assert!(scattered && all == expected, "{ranks} ranks, {length} values");
                }
            }
        }
    }
}

#[test]
fn a_broadcast_brings_the_root_to_all() {
    for ranks in 1..=8 {
        for root in [0, ranks - 1] {
            for length in LENGTHS {
                let got = on_ranks(ranks, |c| {
                    let mut values = values(c.rank(), length);
                    c.broadcast(&mut values, root).map(|()| bits(&values))
                });
                assert!(got.into_iter().all(|got| got == Ok(bits(&values(root, length)))));
            }
        }
    }
    assert!(matches!(Alone.broadcast(&mut [], 1), Err(Error::Argument { .. })));
}

#[test]
fn scalars_are_summed_and_compared_in_rank_order() {
    for ranks in 1..=8 {
        let got = on_ranks(ranks, |c| -> Result<_> {
            let rank = c.rank() as f64;
            let (mut sums, mut greatest) = ([1e16, 0.1 * rank], [rank, -rank, f64::NAN]);
            c.combine(&mut sums, Combine::Sum)?;
            c.combine(&mut greatest, Combine::Max)?;
            Ok((sums, greatest))
        });
        let tenths = (0..ranks).fold(0.0, |sum, rank| sum + 0.1 * rank as f64);
        for got in got {
            let (sums, greatest) = got.expect("no rank fails");
            assert_eq!(sums, [1e16 * ranks as f64, tenths]);
            assert_eq!(greatest[..2], [ranks as f64 - 1.0, 0.0]);
            assert!(greatest[2].is_nan());
        }
    }
}

#[test]
fn ranks_that_disagree_are_named_to_all() {
    for ranks in 1..=8 {
        let agreed = on_ranks(ranks, |c| c.agree("the recipe", b"one"));
        assert!(agreed.into_iter().all(|result| result.is_ok()));
    }
    let said = on_ranks(4, |c| {
        let hash: &[u8] = if matches!(c.rank(), 1 | 3) { b"other" } else { b"one" };
        c.agree("the recipe", hash).map_err(|error| error.to_string())
    });
    let expected = "ranks disagree on the recipe: rank(s) 1, 3 differ from rank 0; start every rank with the same one";
    assert!(
        said.iter().all(|said| said.as_ref().err().is_some_and(|said| said == expected)),
        "{said:?}"
    );
}

#[test]
fn overlapped_buckets_equal_one_sum() {
    const LENGTH: usize = (1 << 23) + 1234; // ranges above and below the largest bucket
    let expected = bits(&sum_in_rank_order(3, LENGTH));
    // Backward ends the last layer first; a tied embedding ends last and lies at the front.
    let mut cuts: Vec<usize> = (0..=7).map(|i| LENGTH * i * i / 49).collect();
    cuts.reverse();
    let got = on_ranks(3, |c| -> Result<_> {
        let mut values = values(c.rank(), LENGTH);
        let mut overlap = Overlap::new();
        for pair in cuts.windows(2) {
            overlap.ready(c, &values[pair[1]..pair[0]], pair[1]..pair[0]);
        }
        overlap.finish(c, &mut values)?;
        Ok(bits(&values))
    });
    assert!(got.into_iter().all(|got| got.as_ref() == Ok(&expected)));
}

#[test]
fn a_rank_that_stops_is_reported_to_those_that_wait() {
    for operation in 0..4 {
        let results = on_ranks(3, |c| {
            if c.rank() == 1 {
                return Ok(()); // returns early: its Threads is dropped
            }
            let mut values = vec![1.0; 100];
            match operation {
                0 => c.all_reduce(&mut values),
                1 => c.barrier(),
                2 => c.gather(b"x").map(|_| ()),
                _ => c.broadcast(&mut values, 1),
            }
        });
        for by in [0, 2] {
            let lost = matches!(results[by], Err(Error::Lost { by: said, .. }) if said == by);
            assert!(lost, "{:?}", results[by]);
        }
    }
}

#[test]
fn a_rank_that_panics_is_reported_to_those_that_wait() {
    let group = Threads::group(2);
    let results = std::thread::scope(|scope| {
        let run = |mut c: Threads| {
            scope.spawn(move || {
                assert_ne!(c.rank(), 1, "on purpose");
                c.all_reduce(&mut [1.0; 8])
            })
        };
        let threads: Vec<_> = group.into_iter().map(run).collect();
        threads.into_iter().map(|thread| thread.join()).collect::<Vec<_>>()
    });
    assert!(matches!(results[0], Ok(Err(Error::Lost { rank: 1, by: 0, .. }))));
    assert!(results[1].is_err());
}

#[test]
fn ranks_out_of_step_are_told_so() {
    let lengths = on_ranks(2, |c| c.all_reduce(&mut vec![0.0; 10 + c.rank()]));
    assert!(
        lengths.iter().all(|result| matches!(result, Err(Error::OutOfStep { .. }))),
        "{lengths:?}"
    );
    let operations =
        on_ranks(2, |c| if c.rank() == 0 { c.barrier() } else { c.all_reduce(&mut [0.0; 4]) });
    assert!(operations.iter().all(|result| matches!(result, Err(Error::OutOfStep { .. }))));
}

#[test]
fn ranks_that_have_left_are_not_missed() {
    let results = on_ranks(4, |c| {
        c.all_reduce(&mut [1.0; 16])?;
        c.leave()
    });
    assert!(results.iter().all(Result::is_ok), "{results:?}");
}
