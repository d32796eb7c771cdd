//! [`Tray`]: what many threads share with one source of a loop, which looks when it is told to.

use std::ops::{Deref, DerefMut};

use super::sync::{Mutex, MutexGuard};

/// Something that many threads change and one source, the taker, looks after.
///
/// The taker is told of changes, once for all between two of its looks, until it goes. Who changes
/// something sees under the same lock whether it has gone: nothing is left to one who will not
/// come.
pub(crate) struct Tray<T> {
    inner: Mutex<Inner<T>>,
}

struct Inner<T> {
    content: T,
    /// The taker was told to look, or is going to anyway, and has not looked since.
    told: bool,
    /// The taker is gone.
    closed: bool,
}

/// The content of a [`Tray`], locked.
pub(crate) struct TrayGuard<'a, T>(MutexGuard<'a, Inner<T>>);

impl<T> Tray<T> {
    /// A tray whose taker waits to be told.
    pub(crate) fn new(content: T) -> Tray<T> {
        Tray {
            inner: Mutex::new(Inner {
                content,
                told: false,
                closed: false,
            }),
        }
    }

    /// A tray whose taker will look for the first time on its own account.
    pub(crate) fn told(content: T) -> Tray<T> {
        let tray = Tray::new(content);
        tray.lock().0.told = true;
        tray
    }

    /// The content, to see it, or to change what the taker need not hear of. Whoever changes more
    /// ends with [`tell`](TrayGuard::tell).
    pub(crate) fn lock(&self) -> TrayGuard<'_, T> {
        TrayGuard(self.inner.lock())
    }

    // ---- for the taker

    /// The taker is going to [look](Tray::look): until then it need not be told.
    pub(crate) fn will_look(&self) {
        self.inner.lock().told = true;
    }

    /// The content, to be taken. Of changes after this the taker is told again.
    pub(crate) fn look(&self) -> TrayGuard<'_, T> {
        let mut guard = self.inner.lock();
        guard.told = false;
        TrayGuard(guard)
    }

    /// The taker goes, and takes what is left.
    pub(crate) fn close(&self) -> TrayGuard<'_, T> {
        let mut guard = self.inner.lock();
        guard.closed = true;
        TrayGuard(guard)
    }
}

impl<T> TrayGuard<'_, T> {
    /// Whether the taker is gone, and nobody would find what is left here.
    pub(crate) fn is_closed(&self) -> bool {
        self.0.closed
    }

    /// Whether the taker is about to look.
    pub(crate) fn is_told(&self) -> bool {
        self.0.told
    }

    /// Unlocks after a change; `true`: the taker must be told to look, and nobody else will do it.
    #[must_use]
    pub(crate) fn tell(mut self) -> bool {
        !std::mem::replace(&mut self.0.told, true)
    }
}

impl<T> Deref for TrayGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0.content
    }
}

impl<T> DerefMut for TrayGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0.content
    }
}
