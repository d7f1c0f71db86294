//! Seeing: what the language model is given for images, made layer by layer between steps, so that
//! sequences that generate go on meanwhile.
//!
//! Images that wait at the same time are seen together, several small ones or one large one. What was made is
//! kept for later requests with the same pixels, as long as there is room.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::Arc;

use keeve_graph::{
    Backend, Error, Graph, LoadOptions, Phase, Program, Progress, RowInput, SequenceRows, Step,
    Want, Weights,
};
use keeve_image::Patches;
use keeve_models::{PatchPlace, PositionTable, Vision};

use crate::images::Placed;
use crate::sequence::Sequence;

/// Patches that are seen together, unless a single image has more.
const BATCH_PATCHES: usize = 4096;

/// What the language model is given for the tokens of an image.
#[derive(Debug)]
pub(crate) struct Features {
    values: Vec<f32>,
    width: usize,
}

impl Features {
    /// What it is given for the token at `index` of the image.
    ///
    /// # Panics
    /// If the image has no such token.
    pub fn row(&self, index: usize) -> &[f32] {
        &self.values[index * self.width..][..self.width]
    }

    fn bytes(&self) -> u64 {
        size_of_val(&*self.values) as u64
    }
}

/// Identifies an image by its pixels: [`Patches::hash`].
pub(crate) type Hash = [u8; 32];

/// What was made of some images.
type Seen = Vec<(Hash, Arc<Features>)>;

/// What was made for images, as much as there is room for.
struct Cache {
    room: u64,
    used: u64,
    clock: u64,
    /// With when each was last asked for.
    entries: HashMap<Hash, (u64, Arc<Features>)>,
}

impl Cache {
    fn new(room: u64) -> Self {
        Self { room, used: 0, clock: 0, entries: HashMap::new() }
    }

    fn get(&mut self, hash: &Hash) -> Option<Arc<Features>> {
        self.clock += 1;
        let (asked, features) = self.entries.get_mut(hash)?;
        *asked = self.clock;
        Some(features.clone())
    }

    /// Keeps `features`, in the place of those that nobody asked for the longest.
    fn add(&mut self, hash: Hash, features: &Arc<Features>) {
        let bytes = features.bytes();
        if bytes > self.room || self.entries.contains_key(&hash) {
            return;
        }
        while self.used + bytes > self.room {
            let oldest = self.entries.iter().min_by_key(|(_, (asked, _))| *asked);
            let Some(oldest) = oldest.map(|(hash, _)| *hash) else { break };
            let removed = self.entries.remove(&oldest);
            self.used -= removed.map_or(0, |(_, features)| features.bytes());
        }
        self.clock += 1;
        self.used += bytes;
        self.entries.insert(hash, (self.clock, features.clone()));
    }
}

/// A layer, and what makes tokens of its result as well.
struct Layer {
    program: Box<dyn Program>,
    features: Option<Box<dyn Program>>,
}

/// The part of a model that sees, loaded.
pub(crate) struct Eyes {
    vision: Vision,
    /// `[side * side, hidden]`.
    table: Vec<f32>,
    embed: Box<dyn Program>,
    layers: Vec<Layer>,
    merger: Box<dyn Program>,
    cache: Cache,
    job: Option<Job>,
}

/// Images that are being seen.
struct Job {
    images: Vec<Arc<Patches>>,
    places: Vec<PatchPlace>,
    /// The hidden state so far, `[patches, hidden]`; nothing before the first stage.
    hidden: Vec<f32>,
    /// Stages done: the embedding, then layers.
    done: usize,
    /// What the language model is given after its first layers, so far: `[tokens, width]` each.
    features: Vec<Vec<f32>>,
}

impl Eyes {
    /// Loads the graphs of `vision`. `cache_bytes` bound what is kept for later requests.
    ///
    /// # Errors
    /// As [`Backend::load`].
    pub fn load(
        mut vision: Vision,
        backend: &dyn Backend,
        weights: &dyn Weights,
        options: &LoadOptions<'_>,
        cache_bytes: u64,
    ) -> Result<Self, Error> {
        let total = vision.weights().try_fold(0u64, |sum, weight| {
            let info = weights.info(&weight.name).map_err(Error::Weight)?;
            Ok::<_, Error>(sum.saturating_add(info.bytes))
        })?;
        let done = Cell::new(0u64);
        let load = |graph: Graph| {
            let before = done.get();
            let progress = |part: Progress| {
                let done = before.saturating_add(part.done).min(total);
                (options.progress)(Progress { done, total })
            };
            let options = LoadOptions { progress: &progress, ..*options };
            let program = backend.load(Arc::new(graph), weights, &options)?;
            done.set(before.saturating_add(program.weight_bytes()));
            Ok(program)
        };
        let table = position_table(&vision.positions, weights)?;
        let layer = |block: keeve_models::Block| {
            let program = load(block.graph)?;
            Ok(Layer { program, features: block.features.map(load).transpose()? })
        };
        let layers = std::mem::take(&mut vision.blocks).into_iter().map(layer);
        let layers = layers.collect::<Result<Vec<_>, Error>>()?;
        let embed = load(std::mem::take(&mut vision.embed))?;
        let merger = load(std::mem::take(&mut vision.merger))?;
        Ok(Self { vision, table, embed, layers, merger, cache: Cache::new(cache_bytes), job: None })
    }

    /// Bytes of weights.
    pub fn weight_bytes(&self) -> u64 {
        let layers = self.layers.iter();
        let programs =
            layers.flat_map(|layer| std::iter::once(&layer.program).chain(&layer.features));
        let programs = programs.chain([&self.embed, &self.merger]);
        let table = size_of_val(&*self.table) as u64;
        programs.map(|program| program.weight_bytes()).sum::<u64>() + table
    }

    /// Bytes that are worked with for each token of the images that are seen together: those of the stage that
    /// takes the most.
    pub fn token_bytes(&self) -> u64 {
        let (merged, hidden) = (self.vision.merged() as u64, self.vision.hidden as u64);
        let float = size_of::<f32>() as u64;
        let row = |program: &dyn Program| program.row_bytes() as u64;
        // Beside what the programs work with: what goes in, and what comes out.
        let embed = row(&*self.embed) + (self.vision.patch_width as u64 + 2 * hidden) * float;
        let layers = self.layers.iter().map(|layer| {
            let program = &*layer.program;
            let state = program.page_bytes().div_ceil(program.page_tokens().max(1)) as u64;
            row(program) + state + 2 * hidden * float
        });
        let widest = layers.chain([embed]).max().unwrap_or(0);
        let mergers = self.layers.iter().filter_map(|layer| layer.features.as_ref());
        let mergers: Vec<_> = mergers.chain([&self.merger]).map(|merger| row(&**merger)).collect();
        let merging = mergers.iter().max().copied().unwrap_or(0) + merged * hidden * float;
        // The result of each merger, and all of them put together.
        let out = mergers.len() as u64 * 2 * self.vision.width as u64 * float;
        (widest * merged).max(merging) + out
    }

    /// Tokens of small images that are seen together.
    pub fn tokens_together(&self) -> usize {
        BATCH_PATCHES / self.vision.merged().max(1)
    }

    /// Gives `sequences` what is known of the images that they need next, and begins to see those that are
    /// not, if no others are being seen. Stops seeing what nobody needs any more.
    pub fn attend(&mut self, sequences: &mut [Sequence]) {
        let mut missing: Vec<Arc<Patches>> = vec![];
        let mut patches = 0;
        let wanted = self
            .job
            .as_ref()
            .is_some_and(|job| sequences.iter_mut().flat_map(needed).any(|image| job.has(image)));
        if !wanted {
            self.job = None;
        }
        for image in sequences.iter_mut().flat_map(needed) {
            image.features = self.cache.get(&image.patches.hash);
            let known = image.features.is_some()
                || missing.iter().any(|other| other.hash == image.patches.hash);
            let rows = image.patches.rows();
            if !known && (missing.is_empty() || patches + rows <= BATCH_PATCHES) {
                patches += rows;
                missing.push(image.patches.clone());
            }
        }
        if self.job.is_none() && !missing.is_empty() {
            self.job = Some(Job::new(missing, &self.vision));
        }
    }

    /// Sees a layer more. When that was the last, `sequences` get what they need of it. Gives the number of
    /// images that are now done.
    ///
    /// # Errors
    /// If the backend fails; the images are then given up, and [`Self::attend`] would begin anew.
    pub fn advance(&mut self, sequences: &mut [Sequence]) -> Result<usize, (Error, Vec<Hash>)> {
        let Some(mut job) = self.job.take() else { return Ok(0) };
        match self.stage(&mut job) {
            Ok(None) => {
                self.job = Some(job);
                Ok(0)
            }
            Ok(Some(made)) => {
                let count = made.len();
                for (hash, features) in made {
                    for image in sequences.iter_mut().flat_map(needed) {
                        if image.patches.hash == hash {
                            image.features = Some(features.clone());
                        }
                    }
                    self.cache.add(hash, &features);
                }
                Ok(count)
            }
            Err(error) => Err((error, job.images.iter().map(|image| image.hash).collect())),
        }
    }

    /// Gives up what is being seen.
    pub fn rest(&mut self) {
        self.job = None;
    }

    /// The next stage of a job; what it gave, if that was the last.
    fn stage(&self, job: &mut Job) -> Result<Option<Seen>, Error> {
        match job.done.checked_sub(1) {
            None => {
                let given = self.embedded(job);
                job.hidden = run(&*self.embed, &job.rows(), &job.lengths(1), &given)?;
            }
            Some(index) => {
                let Some(layer) = self.layers.get(index) else { return self.finish(job).map(Some) };
                job.hidden = run(&*layer.program, &job.rows(), &job.lengths(1), &job.hidden)?;
                if let Some(features) = &layer.features {
                    job.features.push(self.merged(&**features, job)?);
                }
            }
        }
        job.done += 1;
        Ok(None)
    }

    /// What the first stage is given: pixels and learned positions of each patch.
    fn embedded(&self, job: &Job) -> Vec<f32> {
        let (width, hidden) = (self.vision.patch_width, self.vision.hidden);
        let pixels = job.images.iter().flat_map(|image| image.pixels.chunks_exact(width));
        let mut given = Vec::with_capacity(job.places.len() * (width + hidden));
        for (pixels, place) in pixels.zip(&job.places) {
            given.extend_from_slice(pixels);
            let start = given.len();
            given.resize(start + hidden, 0.0);
            for &(row, weight) in &place.taps {
                let row = &self.table[row * hidden..][..hidden];
                let sum = given[start..].iter_mut().zip(row);
                sum.for_each(|(sum, value)| *sum += value * weight);
            }
        }
        given
    }

    /// What a merger makes of the hidden state: a row for each token.
    fn merged(&self, merger: &dyn Program, job: &Job) -> Result<Vec<f32>, Error> {
        let merged = self.vision.merged();
        let row = RowInput { hidden: true, ..RowInput::text(0, 0, Phase::Prompt) };
        let rows = vec![row; job.places.len() / merged];
        run(merger, &rows, &job.lengths(merged), &job.hidden)
    }

    /// What the language model is given for each image.
    fn finish(&self, job: &Job) -> Result<Seen, Error> {
        let tokens = job.places.len() / self.vision.merged();
        let first = self.merged(&*self.merger, job)?;
        let parts: Vec<_> = std::iter::once(&first).chain(&job.features).collect();
        let part_width = first.len().checked_div(tokens).unwrap_or(0);
        let width = part_width * parts.len();
        let mut start = 0;
        let made =
            job.images.iter().zip(job.lengths(self.vision.merged())).map(|(image, length)| {
                let mut values = Vec::with_capacity(length * width);
                for token in start..start + length {
                    for part in &parts {
                        values.extend_from_slice(&part[token * part_width..][..part_width]);
                    }
                }
                start += length;
                (image.hash, Arc::new(Features { values, width }))
            });
        Ok(made.collect())
    }
}

impl Job {
    fn new(images: Vec<Arc<Patches>>, vision: &Vision) -> Self {
        let places = images.iter().flat_map(|image| vision.places(image.grid[1], image.grid[2]));
        let places = places.collect();
        Self { images, places, hidden: vec![], done: 0, features: vec![] }
    }

    fn has(&self, image: &Placed) -> bool {
        self.images.iter().any(|other| other.hash == image.patches.hash)
    }

    /// A row for each patch, whose hidden state is wanted.
    fn rows(&self) -> Vec<RowInput> {
        let row = |place: &PatchPlace| RowInput {
            position: place.position,
            hidden: true,
            ..RowInput::text(0, 0, Phase::Prompt)
        };
        self.places.iter().map(row).collect()
    }

    /// Rows of each image where `merged` patches share one.
    fn lengths(&self, merged: usize) -> Vec<usize> {
        self.images.iter().map(|image| image.rows() / merged).collect()
    }
}

/// The images of a sequence that come next and whose features it lacks: as many as are seen together,
/// those that it has counted too.
fn needed(sequence: &mut Sequence) -> impl Iterator<Item = &mut Placed> {
    let (computed, mut patches) = (sequence.computed, 0usize);
    let ahead = sequence.images.iter_mut().filter(move |image| image.tokens.end > computed);
    let soon = ahead.take_while(move |image| {
        let first = patches == 0;
        patches = patches.saturating_add(image.patches.rows());
        first || patches <= BATCH_PATCHES
    });
    soon.filter(|image| image.features.is_none())
}

/// Runs a graph once on rows of sequences of these lengths, `given` being what is given for each row,
/// one after another; gives their hidden rows.
fn run(
    program: &dyn Program,
    rows: &[RowInput],
    lengths: &[usize],
    given: &[f32],
) -> Result<Vec<f32>, Error> {
    let page_tokens = program.page_tokens();
    let pages: Vec<usize> = lengths.iter().map(|length| length.div_ceil(page_tokens)).collect();
    let count: usize = pages.iter().sum();
    let ids: Vec<u32> = (0..count as u32).collect();
    let width = program.graph().given_width().max(1);
    let given = given.chunks_exact(width).enumerate().collect();
    let mut step = Step { rows: rows.into(), given, ..Step::default() };
    let (mut row, mut page) = (0, 0);
    for (&length, &pages) in lengths.iter().zip(&pages) {
        let pages = page..page + pages;
        step.sequences.push(SequenceRows {
            rows: row..row + length,
            past: 0,
            pages: &ids[pages.clone()],
        });
        (row, page) = (row + length, pages.end);
    }
    // Made for this run alone: their memory is free again once it is over.
    let mut plan = program.compile(&Default::default())?;
    let mut state = program.state(count)?;
    let outputs = plan.run(&step, &mut *state, None)?.take(Want::Hidden);
    Ok(outputs.map(|(_, rows)| rows).unwrap_or_default())
}

/// The table of learned positions in floats.
fn position_table(table: &PositionTable, weights: &dyn Weights) -> Result<Vec<f32>, Error> {
    let expected = &table.weight;
    let tensor = weights.weight(&expected.name).map_err(Error::Weight)?;
    if (tensor.experts(), tensor.rows(), tensor.cols()) != (1, expected.rows, expected.cols) {
        return Err(Error::WeightShape {
            name: expected.name.clone(),
            found_rows: tensor.rows(),
            found_cols: tensor.cols(),
            rows: expected.rows,
            cols: expected.cols,
        });
    }
    let mut values = vec![0.0; tensor.len()];
    for (index, row) in values.chunks_exact_mut(tensor.cols()).enumerate() {
        keeve_codec::row_values(&tensor, index, row);
    }
    Ok(values)
}

#[cfg(test)]
#[path = "vision_tests.rs"]
mod tests;
