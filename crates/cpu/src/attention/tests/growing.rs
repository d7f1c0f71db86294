//! Scores that become larger and larger, so that what they are made smaller by has to change.

use keeve_graph::KvCodec;

use crate::attention::tests::{Sequence, error, mode, run, spec, tiers, widened};
use crate::runtime::pool::Pool;

#[test]
fn scores_that_grow() {
    let spec = spec(4, 2, 64);
    let pool = Pool::new(2).expect("threads");
    let tokens = 650;
    let sequence = || {
        let mut sequence = Sequence::new(spec, 5, tokens, tokens, (0..21).rev().collect());
        for (token, key) in sequence.k.chunks_exact_mut(2 * 64).enumerate() {
            // Scores of some hundreds at last.
            let by = (token as f32 / 80.0).exp2();
            key.iter_mut().for_each(|number| *number *= by);
        }
        [sequence]
    };
    for window in [None, Some(300)] {
        let spec = keeve_graph::Attention { window, ..spec };
        let mut oracle = None;
        for (isa, kernels) in tiers("growing scores") {
            let mode = mode(&*kernels, false, KvCodec::F32, &pool);
            let (whole, _) = run(mode, spec, &sequence(), &[tokens], 0);
            let (parts, _) = run(mode, spec, &sequence(), &[37], 0);
            assert!(
                whole[0].iter().zip(&parts[0]).all(|(a, b)| a.to_bits() == b.to_bits()),
                "{isa}"
            );
            let oracle = oracle.get_or_insert_with(|| widened(&whole[0]));
            // Scores themselves are made in another order of additions.
            let off = error(&whole[0], oracle);
            assert!(off < 3e-3, "{isa} {window:?}: {off:e}");
        }
    }
}
