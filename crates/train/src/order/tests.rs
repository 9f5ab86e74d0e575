use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use crate::Result;

use super::{Batch, Cursor, Cut, Documents, Options, Order, WAITING, mix, permuted};

const BOS: u32 = 4_000_000_000;

/// Document `i` holds the ids `i * 1000 ..`; with `bos` each begins with it.
struct Numbered {
    lengths: Vec<usize>,
    bos: bool,
}

impl Documents for Numbered {
    fn count(&self) -> usize {
        self.lengths.len()
    }

    fn length(&self, document: usize) -> usize {
        self.lengths[document] + usize::from(self.bos)
    }

    fn tokens_of(&self, document: usize, out: &mut Vec<u32>) -> Result<()> {
        out.extend(self.bos.then_some(BOS));
        out.extend((0..self.lengths[document]).map(|at| (document * 1000 + at) as u32));
        Ok(())
    }
}

/// Mostly short, some longer than many rows, some empty.
fn corpus(count: usize, seed: u64, bos: bool) -> Numbered {
    let length = |index: usize| match mix(seed ^ mix(index as u64)) % 1000 {
        draw if draw < 50 => 0,
        draw if draw < 100 => (draw * 9) as usize,
        draw => (draw % 40) as usize + 1,
    };
    Numbered { lengths: (0..count).map(length).collect(), bos }
}

fn options(bos: bool, cut: Cut) -> Options {
    Options { context: 32, seed: 7, bos: (!bos).then_some(BOS), cut }
}

fn order(documents: &Numbered, cut: Cut) -> Order<&Numbered> {
    Order::new(documents, options(documents.bos, cut)).unwrap()
}

const WAYS: [(bool, Cut); 4] =
    [(false, Cut::Carry), (true, Cut::Carry), (false, Cut::Crop), (true, Cut::Crop)];

#[test]
fn every_token_comes_once_an_epoch() {
    for (bos, cut) in WAYS {
        for count in [1, 2, 3, 50, 400, 1500] {
            let documents = corpus(count, 3 + count as u64, bos);
            if documents.lengths.iter().all(|&length| length == 0) {
                continue;
            }
            check_epochs(&documents, cut);
        }
    }
}

/// Three epochs: what was handed out is every token as often as epochs began, in order within a document.
fn check_epochs(documents: &Numbered, cut: Cut) {
    let mut order = order(documents, cut);
    let total: usize = documents.lengths.iter().sum();
    let mut seen: BTreeMap<u32, u64> = BTreeMap::new();
    let mut rows = 0;
    while order.cursor().epoch < 3 {
        let batch = order.next(1, 0, 1).unwrap();
        assert_eq!((batch.first, batch.rows, batch.ids.len()), (rows, 1, 33));
        assert_eq!(batch.ids[0], BOS, "a row begins with BOS");
        for pair in batch.ids.windows(2) {
            // Within a passage ids go up by one; between passages stands BOS.
            assert!(pair[0] == BOS || pair[1] == BOS || pair[1] == pair[0] + 1, "{pair:?}");
        }
        for &id in batch.ids.iter().filter(|&&id| id != BOS) {
            *seen.entry(id).or_default() += 1;
        }
        rows += 1;
        assert!(rows < 100_000, "no end of the epoch");
    }
    let counts = order.cursor().counts;
    let handed: u64 = seen.values().sum();
    assert_eq!(handed, counts.used);
    match cut {
        // The last row may hold the beginning of the fourth epoch.
        Cut::Carry => {
            assert_eq!(seen.len(), total);
            assert!(seen.values().all(|&n| n >= 3));
            assert!(handed - 3 * (total as u64) < 33);
        }
        // What was not handed out was counted; of each passage the first token always was.
        Cut::Crop => {
            assert!((0..33).contains(&(counts.used + counts.cut_off - 3 * total as u64)));
            for (document, &length) in documents.lengths.iter().enumerate() {
                for from in (0..length).step_by(32) {
                    assert!(seen[&((document * 1000 + from) as u32)] >= 3);
                }
            }
        }
    }
}

#[test]
fn it_goes_on_from_any_row() {
    for (bos, cut) in WAYS {
        let documents = corpus(300, 11, bos);
        let mut order = order(&documents, cut);
        let mut rows = Vec::new();
        let mut cursors = Vec::new();
        while order.cursor().epoch < 2 {
            cursors.push(serde_json::to_string(order.cursor()).unwrap());
            rows.push(order.next(1, 0, 1).unwrap());
        }
        assert!(rows.len() > 200);
        for (at, cursor) in cursors.iter().enumerate() {
            let cursor: Cursor = serde_json::from_str(cursor).unwrap();
            let mut again = Order::resume(&documents, options(bos, cut), cursor).unwrap();
            let left = (rows.len() - at).min(20);
            for row in &rows[at..at + left] {
                assert_eq!(again.next(1, 0, 1).unwrap(), *row);
            }
        }
        // By the number of the row alone.
        for at in [0, rows.len() - 1, 5, 6, 4, rows.len() / 2] {
            assert_eq!(order.rows(at as u64, 1, 0, 1).unwrap(), rows[at]);
        }
        order.seek(3);
        order.skip(10);
        assert_eq!(order.next(1, 0, 1).unwrap(), rows[13]);
    }
}

#[test]
fn ranks_share_the_rows_of_a_step() {
    let documents = corpus(500, 5, false);
    let mut alone = order(&documents, Cut::Carry);
    let steps: Vec<Batch> = (0..30).map(|_| alone.next(12, 0, 1).unwrap()).collect();
    for ranks in [1, 2, 3, 4, 5, 8, 12, 16] {
        let mut orders: Vec<_> = (0..ranks).map(|_| order(&documents, Cut::Carry)).collect();
        for step in &steps {
            let mut ids = Vec::new();
            let mut first = step.first;
            for (rank, order) in orders.iter_mut().enumerate() {
                let batch = order.next(12, rank, ranks).unwrap();
                assert_eq!(batch.first, first);
                assert!(batch.rows == 12 / ranks || batch.rows == 12 / ranks + 1);
                first += batch.rows as u64;
                ids.extend(batch.ids);
            }
            assert_eq!(ids, step.ids);
        }
        assert!(orders.iter().all(|order| order.cursor() == alone.cursor()));
    }
    assert!(alone.next(12, 3, 3).is_err());
}

#[test]
fn pairs_are_shifted_by_one() {
    let documents = corpus(50, 5, false);
    let batch = order(&documents, Cut::Carry).next(3, 0, 1).unwrap();
    let (mut inputs, mut targets) = (Vec::new(), Vec::new());
    batch.pairs(1..3, &mut inputs, &mut targets);
    assert_eq!(inputs.len(), 64);
    assert_eq!(inputs[..32], batch.ids[33..65]);
    assert_eq!(targets[..32], batch.ids[34..66]);
    assert_eq!(targets[32..], batch.ids[67..99]);
}

#[test]
fn seeds_and_epochs_differ() {
    let documents = Numbered { lengths: vec![32; 1000], bos: false };
    let starts = |seed: u64, epoch: u64| -> Vec<u32> {
        let options = Options { seed, ..options(false, Cut::Carry) };
        let mut order = Order::new(&documents, options).unwrap();
        order.seek(1000 * epoch);
        (0..1000).map(|_| order.next(1, 0, 1).unwrap().ids[1] / 1000).collect()
    };
    let all = [starts(1, 0), starts(2, 0), starts(1, 1), starts(3, 0)];
    for (at, one) in all.iter().enumerate() {
        let mut sorted = one.clone();
        sorted.sort_unstable();
        assert!(sorted.iter().enumerate().all(|(at, &document)| at == document as usize));
        for other in &all[at + 1..] {
            let same = one.iter().zip(other).filter(|(a, b)| a == b).count();
            assert!(same < 10, "{same} of 1000 in the same place");
        }
        // A random order has 1 + 1/2 + ... + 1/1000 = 7.5 records on average.
        let mut most = 0;
        let records = one.iter().filter(|&&document| {
            let record = document >= most;
            most = most.max(document);
            record
        });
        assert!((2..20).contains(&records.count()));
    }
}

#[test]
fn the_permutation_is_one() {
    for count in [1, 2, 3, 4, 5, 15, 16, 17, 1000, 4097] {
        let mut images: Vec<u64> = (0..count).map(|at| permuted(at, count, 99)).collect();
        images.sort_unstable();
        assert!(images.into_iter().eq(0..count));
    }
    // The largest: nothing overflows.
    assert!(permuted(u64::MAX - 1, u64::MAX, 1) < u64::MAX);
}

#[test]
fn little_is_cut_where_documents_are_short() {
    // Of 300 short documents to choose from, one fits nearly always.
    let lengths = (0..20_000).map(|index| mix(index) as usize % 20 + 1).collect();
    let documents = Numbered { lengths, bos: false };
    for cut in [Cut::Carry, Cut::Crop] {
        let mut order = order(&documents, cut);
        while order.cursor().epoch == 0 {
            order.skip(1);
        }
        let counts = order.cursor().counts;
        assert!(counts.cuts * 100 < counts.passages, "{counts:?}");
        assert!(counts.cut_share(cut) < 0.01);
    }
}

#[test]
fn a_million_documents_are_passed_over_by_length() {
    struct Lengths;
    impl Documents for Lengths {
        fn count(&self) -> usize {
            1_000_000
        }
        fn length(&self, document: usize) -> usize {
            mix(document as u64) as usize % 900 + 1
        }
        fn tokens_of(&self, _: usize, _: &mut Vec<u32>) -> Result<()> {
            panic!("passing over reads nothing");
        }
    }
    let options = Options { context: 256, ..options(false, Cut::Carry) };
    let mut order = Order::new(Lengths, options).unwrap();
    while order.cursor().epoch == 0 {
        order.skip(1000);
    }
    assert!(order.cursor().counts.passages >= 1_000_000);
    assert!(serde_json::to_string(order.cursor()).unwrap().len() < 5000);
}

#[test]
fn the_order_is_the_recorded_one() {
    let documents = corpus(700, 1, false);
    let hash = |cut| {
        let mut order = order(&documents, cut);
        let mut hash = Sha256::new();
        for _ in 0..100 {
            let batch = order.next(7, 0, 1).unwrap();
            batch.ids.iter().for_each(|id| hash.update(id.to_le_bytes()));
        }
        let digest: [u8; 32] = hash.finalize().into();
        digest[..8].iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    // Of this very code: a change of them changes what every running run sees next.
    assert_eq!(hash(Cut::Carry), "dd7acac9251cb8cb");
    assert_eq!(hash(Cut::Crop), "48dd7c5512bfb7d7");
}

#[test]
fn what_does_not_fit_is_said() {
    let documents = corpus(100, 1, false);
    let fine = options(false, Cut::Carry);
    let check = |result: crate::Result<Order<&Numbered>>, words: &str| {
        let text = result.err().expect(words).to_string();
        assert!(text.contains(words), "{text}");
    };
    check(Order::new(&documents, Options { context: 0, ..fine }), "context");
    let none = Numbered { lengths: vec![0; 4], bos: true };
    check(Order::new(&none, Options { bos: None, ..fine }), "none of 4 documents");
    check(Order::new(&Numbered { lengths: Vec::new(), bos: false }, fine), "none of 0");

    let mut order = order(&documents, Cut::Carry);
    order.skip(9);
    let cursor = order.cursor().clone();
    let resume = |options, cursor| Order::resume(&documents, options, cursor);
    assert!(resume(fine, cursor.clone()).is_ok());
    check(resume(Options { seed: 8, ..fine }, cursor.clone()), "recipe");
    check(resume(fine, Cursor { passages: 99, ..cursor.clone() }), "99 passages");
    check(resume(fine, Cursor { rows: u64::MAX, ..cursor.clone() }), "cannot be right");
    check(resume(fine, Cursor { drawn: 10_000, ..cursor.clone() }), "cannot be right");
    let crowd = vec![(0, 0); WAITING + 1];
    check(resume(fine, Cursor { waiting: crowd, ..cursor.clone() }), "cannot be right");
    for outside in [(100, 0), (u64::MAX, 0), (3, 1 << 40)] {
        check(
            resume(fine, Cursor { waiting: vec![outside], ..cursor.clone() }),
            "not in the corpus",
        );
    }

    /// Says ten tokens, gives nine.
    struct Short;
    impl Documents for Short {
        fn count(&self) -> usize {
            1
        }
        fn length(&self, _: usize) -> usize {
            10
        }
        fn tokens_of(&self, _: usize, out: &mut Vec<u32>) -> Result<()> {
            out.extend(0..9);
            Ok(())
        }
    }
    let text = Order::new(Short, fine).unwrap().next(1, 0, 1).unwrap_err().to_string();
    assert!(text.contains("document 0") && text.contains("length 10"), "{text}");
}
