//! The presets: for each, the codec of every weight by its role and layer. This table is the only place
//! that says so; it is also what `--list-presets` prints.
//!
//! `q2_k` to `q6_k` without `_xl` and `_moe` follow ggml-org/llama.cpp `src/llama-quant.cpp`
//! (`llama_tensor_get_type_impl`) tensor for tensor. The `_xl` and `_moe` forms spend bits where
//! asher/mlx-kquant `mlx_kquant/recipes.py` does.

use keeve_codec::Codec::{self, Q2K, Q3K, Q4K, Q5K, Q6K, Q8_0};

use crate::Role;
use crate::dimensions::Dimensions;

/// Which layers a rule is for. `n` is the number of layers; for values, which layers of other kinds may
/// lack, layers are counted among those that have some.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layers {
    /// All.
    All,
    /// The first few.
    First(usize),
    /// The first `n / .0`.
    FirstPart(usize),
    /// The first eighth, the last eighth, and every third between them.
    MoreBits,
}

impl Layers {
    fn contains(self, layer: usize, count: usize) -> bool {
        match self {
            Self::All => true,
            Self::First(first) => layer < first,
            Self::FirstPart(part) => layer < count / part,
            Self::MoreBits => {
                let eighth = count / 8;
                // Written so that nothing overflows whatever a config says.
                let last = count - count.div_ceil(8);
                layer < eighth || layer >= last || (layer - eighth) % 3 == 2
            }
        }
    }

    /// For people: `all layers`, `layers < n/8`.
    fn describe(self) -> String {
        match self {
            Self::All => String::new(),
            Self::First(first) => format!(" of the first {first} layers"),
            Self::FirstPart(part) => format!(" of the first n/{part} layers"),
            Self::MoreBits => {
                " of the first and last eighth of layers and every third between".into()
            }
        }
    }
}

/// Which models a rule is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// All.
    Always,
    /// At least four query heads share a key head.
    GroupedByFour,
    /// There are exactly eight experts.
    EightExperts,
    /// 80 layers, with fewer key heads than query heads.
    Eighty,
}

impl When {
    fn holds(self, dimensions: &Dimensions) -> bool {
        match self {
            Self::Always => true,
            Self::GroupedByFour => dimensions.grouped_queries >= 4,
            Self::EightExperts => dimensions.experts == 8,
            Self::Eighty => dimensions.is_70b,
        }
    }

    fn describe(self) -> &'static str {
        match self {
            Self::Always => "",
            Self::GroupedByFour => ", if 4 or more query heads share a key head",
            Self::EightExperts => ", if there are 8 experts",
            Self::Eighty => ", in llama and qwen2 models of 80 layers",
        }
    }
}

/// A codec for some roles in some layers of some models.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rule {
    roles: &'static [Role],
    layers: Layers,
    when: When,
    codec: Codec,
}

/// A mixture of codecs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Preset {
    /// Its name.
    pub name: &'static str,
    /// The codec of every weight for which no rule holds.
    pub base: Codec,
    /// The first that holds counts.
    pub rules: &'static [Rule],
    /// llama.cpp's number for it (`general.file_type` of a GGUF file).
    pub file_type: u32,
}

const fn rule(roles: &'static [Role], layers: Layers, when: When, codec: Codec) -> Rule {
    Rule { roles, layers, when, codec }
}

const fn all(roles: &'static [Role], codec: Codec) -> Rule {
    rule(roles, Layers::All, When::Always, codec)
}

const HEAD: &[Role] = &[Role::Head];
const VALUE: &[Role] = &[Role::Value];
const OUT: &[Role] = &[Role::Out];
const DOWN: &[Role] = &[Role::Down, Role::SharedDown, Role::ExpertDown];
const DENSE_DOWN: &[Role] = &[Role::Down];
const SHARED: &[Role] = &[Role::SharedIn, Role::SharedDown];
const STATE_IN: &[Role] = &[Role::StateIn];
const STATE_OUT: &[Role] = &[Role::StateOut];

/// The head of every K-quant mixture.
const HEAD_6: Rule = all(HEAD, Q6K);
/// What eight experts change in attention.
const EIGHT_KV: Rule = rule(&[Role::Key, Role::Value], Layers::All, When::EightExperts, Q8_0);
const EIGHT_OUT: Rule = rule(OUT, Layers::All, When::EightExperts, Q5K);
/// Keeps an output projection at the base in models of eight experts.
const EIGHT_OUT_3: Rule = rule(OUT, Layers::All, When::EightExperts, Q3K);
/// Values are an eighth of queries there, and cheap.
const EIGHTY_VALUE: Rule = rule(VALUE, Layers::All, When::Eighty, Q5K);

/// All presets, smallest first.
pub const PRESETS: [Preset; 15] = [
    Preset {
        name: "q2_k",
        base: Q2K,
        rules: &[
            HEAD_6,
            EIGHT_KV,
            EIGHT_OUT,
            rule(VALUE, Layers::All, When::Eighty, Q5K),
            rule(VALUE, Layers::All, When::GroupedByFour, Q4K),
            all(VALUE, Q3K),
            all(OUT, Q3K),
            all(DOWN, Q3K),
        ],
        file_type: 10,
    },
    Preset {
        name: "q3_k_s",
        base: Q3K,
        rules: &[HEAD_6, EIGHT_KV, EIGHT_OUT, EIGHTY_VALUE],
        file_type: 11,
    },
    Preset {
        name: "q3_k_m",
        base: Q3K,
        rules: &[
            HEAD_6,
            EIGHT_KV,
            EIGHT_OUT,
            EIGHTY_VALUE,
            rule(VALUE, Layers::First(2), When::Always, Q5K),
            all(VALUE, Q4K),
            all(OUT, Q4K),
            rule(DOWN, Layers::FirstPart(16), When::Always, Q5K),
            all(DOWN, Q4K),
        ],
        file_type: 12,
    },
    Preset {
        name: "q3_k_l",
        base: Q3K,
        rules: &[HEAD_6, EIGHT_KV, EIGHT_OUT_3, all(VALUE, Q5K), all(OUT, Q5K), all(DOWN, Q5K)],
        file_type: 13,
    },
    Preset {
        name: "q4_k_s",
        base: Q4K,
        rules: &[
            HEAD_6,
            EIGHT_KV,
            EIGHT_OUT,
            EIGHTY_VALUE,
            rule(VALUE, Layers::First(4), When::Always, Q5K),
            rule(DOWN, Layers::FirstPart(8), When::Always, Q5K),
        ],
        file_type: 14,
    },
    Preset {
        name: "q4_k_m",
        base: Q4K,
        rules: &[
            HEAD_6,
            EIGHT_KV,
            EIGHT_OUT,
            rule(VALUE, Layers::MoreBits, When::Always, Q6K),
            EIGHTY_VALUE,
            rule(DOWN, Layers::MoreBits, When::Always, Q6K),
        ],
        file_type: 15,
    },
    Preset {
        name: "q4_k_xl",
        base: Q4K,
        rules: &[
            HEAD_6,
            all(VALUE, Q6K),
            all(DENSE_DOWN, Q6K),
            all(STATE_IN, Q6K),
            all(STATE_OUT, Q8_0),
        ],
        file_type: 15,
    },
    Preset {
        name: "q4_k_moe",
        base: Q4K,
        rules: &[
            HEAD_6,
            all(VALUE, Q6K),
            rule(DENSE_DOWN, Layers::MoreBits, When::Always, Q6K),
            all(SHARED, Q5K),
            all(STATE_OUT, Q5K),
        ],
        file_type: 15,
    },
    Preset { name: "q5_k_s", base: Q5K, rules: &[HEAD_6, EIGHT_KV], file_type: 16 },
    Preset {
        name: "q5_k_m",
        base: Q5K,
        rules: &[
            HEAD_6,
            EIGHT_KV,
            rule(VALUE, Layers::MoreBits, When::Always, Q6K),
            rule(DOWN, Layers::MoreBits, When::Always, Q6K),
        ],
        file_type: 17,
    },
    Preset {
        name: "q5_k_xl",
        base: Q5K,
        rules: &[
            HEAD_6,
            all(VALUE, Q6K),
            all(DENSE_DOWN, Q6K),
            all(STATE_IN, Q6K),
            all(STATE_OUT, Q8_0),
        ],
        file_type: 17,
    },
    Preset {
        name: "q5_k_moe",
        base: Q5K,
        rules: &[
            HEAD_6,
            all(VALUE, Q6K),
            rule(DENSE_DOWN, Layers::MoreBits, When::Always, Q6K),
            all(SHARED, Q6K),
            all(STATE_OUT, Q6K),
        ],
        file_type: 17,
    },
    Preset { name: "q6_k", base: Q6K, rules: &[EIGHT_KV], file_type: 18 },
    Preset {
        name: "q6_k_moe",
        base: Q6K,
        rules: &[all(HEAD, Q8_0), all(VALUE, Q8_0), all(SHARED, Q8_0)],
        file_type: 18,
    },
    Preset { name: "q8", base: Q8_0, rules: &[], file_type: 7 },
];

impl Preset {
    /// The preset `name`, in any case.
    pub fn named(name: &str) -> Option<&'static Self> {
        PRESETS.iter().find(|preset| preset.name.eq_ignore_ascii_case(name))
    }

    /// The codec for a weight in `role`, number `index` of `count` (see [`Layers`]).
    pub fn codec(&self, role: Role, index: usize, count: usize, dimensions: &Dimensions) -> Codec {
        let holds = |rule: &&Rule| {
            rule.roles.contains(&role)
                && rule.when.holds(dimensions)
                && rule.layers.contains(index, count)
        };
        self.rules.iter().find(holds).map_or(self.base, |rule| rule.codec)
    }

    /// The preset for people, a line each: the base, then the rules in their order.
    pub fn describe(&self) -> Vec<String> {
        let mut lines = vec![format!("{}: {}", self.name, self.base)];
        for Rule { roles, layers, when, codec } in self.rules {
            let roles = roles.iter().map(|role| role.name()).collect::<Vec<_>>().join(", ");
            lines.push(format!("  {codec}: {roles}{}{}", layers.describe(), when.describe()));
        }
        lines
    }
}
