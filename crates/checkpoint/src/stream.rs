//! Writing a file tensor by tensor, visible under its name only when it is complete.

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::Error;

/// A container being written: a header, then tensors in the order announced. The bytes go to a
/// temporary file beside the target, which takes the target's name in [`TensorStream::finish`]; if
/// that is not reached, the temporary file is removed and the target stays as it was.
pub(crate) struct TensorStream {
    target: PathBuf,
    file: BufWriter<NamedTempFile>,
    /// Name and bytes of each tensor.
    expected: Vec<(String, usize)>,
    /// How many are complete.
    done: usize,
    /// Tensors are followed by zeros up to a multiple of this many bytes.
    alignment: usize,
}

impl TensorStream {
    pub(crate) fn create(
        target: &Path,
        header: &[u8],
        expected: Vec<(String, usize)>,
        alignment: usize,
    ) -> Result<Self, Error> {
        let parent = match target.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let failed = |source| Error::io(target, source);
        let mut builder = tempfile::Builder::new();
        builder.prefix(".keeve-").suffix(".part");
        #[cfg(unix)]
        {
            // As any other file: readable by whom the umask allows.
            use std::os::unix::fs::PermissionsExt;
            builder.permissions(std::fs::Permissions::from_mode(0o666));
        }
        let file = builder.tempfile_in(parent).map_err(failed)?;
        let mut file = BufWriter::with_capacity(1 << 20, file);
        file.write_all(header).map_err(failed)?;
        Ok(Self { target: target.into(), file, expected, done: 0, alignment })
    }

    /// Writes the next tensor from its pieces.
    pub(crate) fn tensor(&mut self, name: &str, pieces: &[&[u8]]) -> Result<(), Error> {
        let Some((announced, bytes)) = self.expected.get(self.done) else {
            return Err(Error::tensor(&self.target, name, "was not announced"));
        };
        if announced != name {
            let problem = format!("was written where '{announced}' was announced");
            return Err(Error::tensor(&self.target, name, problem));
        }
        let found: usize = pieces.iter().map(|piece| piece.len()).sum();
        if found != *bytes {
            let problem = format!("has {found} bytes, {bytes} were announced");
            return Err(Error::tensor(&self.target, name, problem));
        }
        let failed = |source| Error::io(&self.target, source);
        for piece in pieces {
            self.file.write_all(piece).map_err(failed)?;
        }
        let padding = found.next_multiple_of(self.alignment) - found;
        self.file.write_all(&vec![0; padding]).map_err(failed)?;
        self.done += 1;
        Ok(())
    }

    /// Flushes everything to the disk and gives the file its name.
    pub(crate) fn finish(self) -> Result<(), Error> {
        if let Some((name, _)) = self.expected.get(self.done) {
            return Err(Error::tensor(&self.target, name, "was announced but not written"));
        }
        let failed = |source| Error::io(&self.target, source);
        let file = self.file.into_inner().map_err(|error| failed(error.into_error()))?;
        file.as_file().sync_all().map_err(failed)?;
        file.persist(&self.target).map_err(|error| failed(error.error))?;
        Ok(())
    }
}
