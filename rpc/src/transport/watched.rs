//! [`Watched`]: something made of files, made anew when they change.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;

use super::tls_files::TlsError;

/// How often the files are looked at, at most.
pub(super) const CHECK_EVERY: Duration = Duration::from_secs(1);

/// What is made of files.
pub(super) trait Recipe {
    type Made;

    /// The files, for their times.
    fn files(&self) -> Vec<&Path>;

    /// Reads the files.
    fn make(&self) -> Result<Arc<Self::Made>, TlsError>;
}

/// What a recipe made, and when to make it again. A change that cannot be used is logged, and what
/// was made before stays.
pub(super) struct Watched<R: Recipe> {
    recipe: R,
    check_every: Duration,
    state: Mutex<State<R::Made>>,
}

struct State<M> {
    made: Arc<M>,
    /// Of the files, before they were read for `made`.
    stamps: Vec<Stamp>,
    checked: Instant,
    /// What the log said last about a change that cannot be used.
    trouble: Option<String>,
}

/// Tells one content of a file from another; `None`: it cannot be read.
type Stamp = Option<(SystemTime, u64)>;

impl<R: Recipe> Watched<R> {
    pub(super) fn new(recipe: R, check_every: Duration) -> Result<Watched<R>, TlsError> {
        let stamps = stamps_of(&recipe);
        let made = recipe.make()?;
        let state = State {
            made,
            stamps,
            checked: Instant::now(),
            trouble: None,
        };
        Ok(Watched {
            recipe,
            check_every,
            state: Mutex::new(state),
        })
    }

    pub(super) fn recipe(&self) -> &R {
        &self.recipe
    }

    pub(super) fn check_every(&self) -> Duration {
        self.check_every
    }

    /// What the files say, as of [`CHECK_EVERY`] ago or later.
    pub(super) fn current(&self) -> Arc<R::Made> {
        let mut state = self.state.lock();
        let now = Instant::now();
        if now.duration_since(state.checked) < self.check_every {
            return Arc::clone(&state.made);
        }
        state.checked = now;
        // Before they are read: a file that changes meanwhile has changed for the next look.
        let stamps = stamps_of(&self.recipe);
        if stamps != state.stamps {
            match self.recipe.make() {
                Ok(made) => {
                    tracing::info!(files = %self.shown_files(), "TLS files have changed and are in use");
                    state.made = made;
                    state.stamps = stamps;
                    state.trouble = None;
                }
                // Looked at again and again: the other file of a pair may come a moment later.
                Err(error) => {
                    let text = error.to_string();
                    if state.trouble.as_ref() != Some(&text) {
                        tracing::error!(%error, "TLS files have changed and cannot be used; the old ones stay in use");
                        state.trouble = Some(text);
                    }
                }
            }
        }
        Arc::clone(&state.made)
    }

    /// Reads the files now.
    pub(super) fn reload(&self) -> Result<(), TlsError> {
        let mut state = self.state.lock();
        let stamps = stamps_of(&self.recipe);
        state.made = self.recipe.make()?;
        state.stamps = stamps;
        state.trouble = None;
        Ok(())
    }

    fn shown_files(&self) -> String {
        let files = self.recipe.files();
        let names: Vec<_> = files.iter().map(|file| file.to_string_lossy()).collect();
        names.join(", ")
    }
}

fn stamps_of(recipe: &impl Recipe) -> Vec<Stamp> {
    let stamp = |file: &Path| {
        let metadata = fs::metadata(file).ok()?;
        Some((metadata.modified().ok()?, metadata.len()))
    };
    recipe.files().into_iter().map(stamp).collect()
}
