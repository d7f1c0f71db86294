//! What checkpoints say about rounding activations, and what becomes of it.

use keeve_checkpoint::{ActivationRule, ActivationScheme, ActivationStrategy, Checkpoint};
use keeve_graph::RowRounding;

/// Whether products in int8 round activations as this says: each row as it comes, with one scale.
fn is_by_row(scheme: ActivationScheme) -> bool {
    scheme.rule == ActivationRule::CompressedTensors
        && scheme.strategy == ActivationStrategy::Token
        && (scheme.bits, scheme.float, scheme.symmetric) == (8, false, true)
        && scheme.dynamic
}

/// How rows become int8 under [`keeve_graph::Activations::Int8`] where a checkpoint's weights have one scale a
/// row.
pub fn row_rounding(checkpoint: &Checkpoint) -> RowRounding {
    of(&schemes(checkpoint))
}

/// What a checkpoint says, one for each weight of which it says something.
pub(crate) fn schemes(checkpoint: &Checkpoint) -> Vec<ActivationScheme> {
    checkpoint.tensors().filter_map(|tensor| tensor.activations).collect()
}

/// How rows become int8 for weights with these schemes: as compressed-tensors has it if that made them.
pub(crate) fn of(schemes: &[ActivationScheme]) -> RowRounding {
    match schemes.iter().any(|&scheme| is_by_row(scheme)) {
        true => RowRounding::CompressedTensors,
        false => RowRounding::Cider,
    }
}

/// What a person who asked for int8 should know: which of these schemes are not followed.
pub(crate) fn notes(schemes: &[ActivationScheme]) -> Vec<String> {
    let mut others: Vec<(ActivationScheme, usize)> = vec![];
    for &scheme in schemes.iter().filter(|&&scheme| !is_by_row(scheme)) {
        match others.iter_mut().find(|(other, _)| *other == scheme) {
            Some((_, count)) => *count += 1,
            None => others.push((scheme, 1)),
        }
    }
    let note = |(scheme, count): (ActivationScheme, usize)| {
        format!(
            "{count} weights were made for activations in {scheme}, which is not followed: \
             activations are rounded as for other weights of their codecs"
        )
    };
    others.into_iter().map(note).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BY_ROW: ActivationScheme = ActivationScheme {
        rule: ActivationRule::CompressedTensors,
        strategy: ActivationStrategy::Token,
        bits: 8,
        float: false,
        symmetric: true,
        dynamic: true,
    };

    #[test]
    fn rows_are_rounded_as_the_checkpoint_was_made_and_other_schemes_are_told() {
        assert_eq!((of(&[]), notes(&[])), (RowRounding::Cider, vec![]));
        assert_eq!(
            (of(&[BY_ROW; 3]), notes(&[BY_ROW; 3])),
            (RowRounding::CompressedTensors, vec![])
        );
        let group = ActivationStrategy::Group(128);
        for (other, name) in [
            (
                ActivationScheme { strategy: ActivationStrategy::Tensor, dynamic: false, ..BY_ROW },
                "int8 per tensor, static",
            ),
            (ActivationScheme { dynamic: false, ..BY_ROW }, "int8 per token, static"),
            (
                ActivationScheme { strategy: group, ..BY_ROW },
                "int8 per 128 columns of a token, dynamic",
            ),
            (
                ActivationScheme { symmetric: false, ..BY_ROW },
                "int8 per token, dynamic, asymmetric",
            ),
            (ActivationScheme { bits: 4, ..BY_ROW }, "int4 per token, dynamic"),
            (ActivationScheme { float: true, ..BY_ROW }, "fp8 per token, dynamic"),
            (
                ActivationScheme { rule: ActivationRule::BitNet, ..BY_ROW },
                "int8 per token, dynamic",
            ),
        ] {
            assert_eq!(of(&[other]), RowRounding::Cider, "{name}");
            let told = notes(&[other, BY_ROW, other]);
            assert_eq!(told.len(), 1, "{name}");
            let start = format!("2 weights were made for activations in {name}, which is not");
            assert!(told[0].starts_with(&start), "{}", told[0]);
        }
    }
}
