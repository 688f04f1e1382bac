//! A `file:` store: [`Folder`]'s durable writes beneath `object_store`'s reads.
//!
//! Two things differ from `object_store`'s local store. Writes are durable when they are answered, and a conditional
//! update works: the folder is locked by this process, so a mutex makes it atomic. The revision is a hash of the
//! content, because an inode number with a time and a size comes back after two fast swaps.

use std::fmt;
use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use futures::stream::{BoxStream, StreamExt, TryStreamExt};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use tokio::sync::RwLock;

use super::OpenError;
use super::folder::{Folder, PRIVATE_FOLDER};

const NAME: &str = "LocalObjects";

/// The objects of one locked folder. The lock is held until the last clone and the last write under way are gone.
#[derive(Debug, Clone)]
pub(super) struct LocalObjects {
    files: LocalFileSystem,
    folder: Arc<Folder>,
    /// Exclusive while a register is swapped. Shared by whole reads, which so never show a register that a power
    /// cut could still take back.
    registers: Arc<RwLock<()>>,
}

impl LocalObjects {
    /// Opens a folder: see [`Folder::open`].
    pub(super) async fn open(path: &std::path::Path) -> Result<Self, OpenError> {
        let asked = path.to_owned();
        let joined = tokio::task::spawn_blocking(move || Folder::open(&asked)).await;
        let folder = joined.map_err(|error| OpenError::Io {
            action: "open the store folder",
            path: path.to_owned(),
            source: io::Error::other(error),
        })??;
        let files = LocalFileSystem::new_with_prefix(folder.root())
            .map_err(|source| OpenError::Folder { path: path.to_owned(), source })?;
        Ok(Self { files, folder: Arc::new(folder), registers: Arc::default() })
    }

    async fn create(&self, key: &Path, body: PutPayload) -> Result<()> {
        let file = self.files.path_to_filesystem(key)?;
        let folder = Arc::clone(&self.folder);
        if blocking(move || folder.create(&file, &body)).await? {
            return Ok(());
        }
        Err(Error::AlreadyExists { path: key.to_string(), source: "the file exists".into() })
    }

    async fn replace(&self, key: &Path, expected: String, body: PutPayload) -> Result<()> {
        let file = self.files.path_to_filesystem(key)?;
        let folder = Arc::clone(&self.folder);
        // The guard goes with the write, which goes on when the caller gives up.
        let alone = Arc::clone(&self.registers).write_owned().await;
        let replaced = blocking(move || {
            let _alone = alone;
            folder.replace(&file, &expected, &body)
        });
        if replaced.await? {
            return Ok(());
        }
        Err(Error::Precondition { path: key.to_string(), source: "the content is another".into() })
    }
}

impl fmt::Display for LocalObjects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{NAME}({})", self.folder.root().display())
    }
}

#[async_trait]
impl ObjectStore for LocalObjects {
    async fn put_opts(&self, key: &Path, body: PutPayload, options: PutOptions) -> Result<PutResult> {
        refuse_private(key)?;
        match options.mode {
            PutMode::Create => self.create(key, body).await?,
            PutMode::Update(version) => {
                self.replace(key, version.e_tag.unwrap_or_default(), body).await?;
            }
            PutMode::Overwrite => return Err(not_implemented("an unconditional put")),
        }
        Ok(PutResult { e_tag: None, version: None, extensions: Default::default() })
    }

    async fn get_opts(&self, key: &Path, options: GetOptions) -> Result<GetResult> {
        refuse_private(key)?;
        let whole = options.range.is_none() && !options.head;
        let _no_swap = if whole { Some(self.registers.read().await) } else { None };
        let mut found = self.files.get_opts(key, options).await?;
        found.meta = without_tag(found.meta);
        Ok(found)
    }

    fn delete_stream(&self, keys: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let keys = keys.map(|key| key.and_then(|key| refuse_private(&key).map(|()| key)));
        self.files.delete_stream(keys.boxed())
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        public(self.files.list(prefix))
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        after: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        public(self.files.list_with_offset(prefix, after))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let mut found = self.files.list_with_delimiter(prefix).await?;
        found.common_prefixes.retain(|folder| !is_private(folder));
        found.objects.retain(|object| !is_private(&object.location));
        Ok(found)
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        Err(not_implemented("a multipart put"))
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        Err(not_implemented("a copy"))
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await?;
    done.map_err(|source| Error::Generic { store: NAME, source: source.into() })
}

fn public(listing: BoxStream<'static, Result<ObjectMeta>>) -> BoxStream<'static, Result<ObjectMeta>> {
    let public = listing.try_filter(|object| std::future::ready(!is_private(&object.location)));
    public.map_ok(without_tag).boxed()
}

/// Hides the file system's tag, so that a register's revision is its content's.
fn without_tag(object: ObjectMeta) -> ObjectMeta {
    ObjectMeta { e_tag: None, ..object }
}

fn is_private(key: &Path) -> bool {
    key.parts().next().is_some_and(|first| first.as_ref() == PRIVATE_FOLDER)
}

fn refuse_private(key: &Path) -> Result<()> {
    if is_private(key) {
        let source = format!("the folder {PRIVATE_FOLDER} is not part of the store").into();
        return Err(Error::NotSupported { source });
    }
    Ok(())
}

fn not_implemented(operation: &str) -> Error {
    Error::NotImplemented { operation: operation.to_owned(), implementer: NAME.to_owned() }
}
