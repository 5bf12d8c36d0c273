//! Branches of generated pages in a local object store: one relation of as many blocks as asked for, with what the
//! server needs to serve it. Written once, found again by name.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use engine::catalog::{Catalog, CatalogParts, CommitFacts, InlineCpu, WriterConfig};
use engine::crypto::entropy::Entropy;
use engine::crypto::keyring::Keyring;
use engine::layer::Value;
use engine::manifest::TimelineSpan;
use engine::store::store_url::StoreUrl;
use engine::types::{BranchId, Key, Lsn, TenantId};
use postgres::key::{Fork, PostgresKey, Relation};
use postgres::key_space::{KEY_SPACE_TAG, PostgresKeySpace};
use postgres::value::{DatabaseDirectory, RelationSize};

use crate::device::require_space;
use crate::error::{BenchError, Doing, Result};
use crate::pages::{Content, fill};
use crate::pagestream::codec::{PAGE_BYTES, RelationPage};
use crate::pagestream::keyspace::Keyspace;

/// The version of every page.
pub(crate) const LSN: Lsn = Lsn(0x1000_0000);

const TENANT: &str = "bench";
const RELATION: Relation = Relation {
    tablespace: 1663,
    database: 5,
    number: 16384,
};

/// Where everything of the embedded and the served runs is.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    /// The object store.
    pub(crate) objects: PathBuf,
    /// The keyring, in a folder of its own.
    pub(crate) keyring: PathBuf,
    /// Data directory of the embedded engine.
    pub(crate) embedded: PathBuf,
    /// Data directory of the server.
    pub(crate) served: PathBuf,
    /// The file of the device baseline.
    pub(crate) device: PathBuf,
}

impl Place {
    /// Makes the folders below `data`.
    ///
    /// # Errors
    /// What the file system refuses.
    pub(crate) fn below(data: &Path) -> Result<Self> {
        let data = std::path::absolute(data).doing(|| format!("find {}", data.display()))?;
        for name in ["objects", "keys", "embedded", "served"] {
            let folder = data.join(name);
            std::fs::create_dir_all(&folder).doing(|| format!("make {}", folder.display()))?;
        }
        Ok(Self {
            objects: data.join("objects"),
            keyring: data.join("keys").join("keyring"),
            embedded: data.join("embedded"),
            served: data.join("served"),
            device: data.join("device.bin"),
        })
    }

    pub(crate) fn store_url(&self) -> Result<StoreUrl> {
        let text = self.objects.to_string_lossy();
        StoreUrl::parse(&text, &std::collections::BTreeMap::new())
            .map_err(|e| BenchError::Unfit(format!("object store {text}: {e}")))
    }

    /// What opens the tenants and branches of the store.
    pub(crate) fn catalog_parts(&self) -> Result<CatalogParts> {
        Ok(CatalogParts {
            provider: self.keys()?,
            entropy: Entropy::system(),
            key_space: Arc::new(PostgresKeySpace),
            key_space_tag: KEY_SPACE_TAG,
        })
    }

    /// Opens the keyring, or makes it.
    fn keys(&self) -> Result<Arc<Keyring>> {
        let data = [&*self.objects, &*self.embedded, &*self.served];
        let keyring = if self.keyring.exists() {
            Keyring::open(&self.keyring, &data, Entropy::system())
        } else {
            Keyring::create(&self.keyring, &data, Entropy::system())
        };
        keyring
            .map(Arc::new)
            .map_err(|e| BenchError::Unfit(e.to_string()))
    }
}

/// A branch of generated pages.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Dataset {
    pub(crate) tenant: TenantId,
    pub(crate) branch: BranchId,
    pub(crate) pages: u32,
}

impl Dataset {
    /// The branch with that many pages of that content; writes it if it is not there.
    ///
    /// # Errors
    /// No room on the disk, and what the store or the keys say.
    pub(crate) fn prepare(place: &Place, pages: u32, content: Content) -> Result<Self> {
        let name = match content {
            Content::Incompressible => format!("incompressible-{pages}"),
            Content::Compressible => format!("compressible-{pages}"),
        };
        // The store's client and the blocking file operations below it need a runtime.
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .doing(|| "start a runtime")?
            .block_on(prepare(place, &name, pages, content))
    }

    /// The page of a number below `pages`.
    pub(crate) fn page(block: u32) -> RelationPage {
        RelationPage {
            tablespace: RELATION.tablespace,
            database: RELATION.database,
            relation: RELATION.number,
            fork: Fork::Main.number(),
            block,
        }
    }

    /// The engine's key of a page.
    pub(crate) fn key(block: u32) -> Key {
        PostgresKey::Block {
            relation: RELATION,
            fork: Fork::Main,
            block,
        }
        .encode()
    }

    /// All pages, for a pagestream client.
    pub(crate) fn keyspace(&self) -> Keyspace {
        let mut keyspace = Keyspace::default();
        keyspace.push(Self::page(0), self.pages);
        keyspace
    }
}

async fn prepare(place: &Place, name: &str, pages: u32, content: Content) -> Result<Dataset> {
    let failed =
        |e: engine::catalog::CatalogError| BenchError::Unfit(format!("branch {name}: {e}"));
    let objects = place
        .store_url()?
        .connect()
        .map_err(|e| BenchError::Unfit(format!("object store: {e}")))?;
    let catalog = Catalog::new(objects, place.catalog_parts()?);
    let tenants = catalog.tenants().await.map_err(failed)?;
    let tenant = match tenants.into_iter().find(|tenant| tenant.name() == TENANT) {
        Some(tenant) => tenant,
        None => catalog.create_tenant(TENANT).await.map_err(failed)?,
    };
    let branches = catalog.branches(&tenant).await.map_err(failed)?;
    let found = branches
        .iter()
        .find(|branch| branch.name.as_deref() == Some(name))
        .map(|branch| branch.id);
    let branch = match found {
        Some(branch) => branch,
        None => {
            require_space(&place.objects, u64::from(pages) * PAGE_BYTES as u64)?;
            tracing::info!("writing branch {TENANT}/{name}: {pages} pages");
            let timeline = TimelineSpan {
                timeline: 1,
                from: LSN,
                to: Lsn::MAX,
            };
            let (mut writer, uploads) = catalog
                .begin_branch(&tenant, name, vec![timeline], WriterConfig::default())
                .await
                .map_err(failed)?;
            let write = async {
                let mut page = Box::new([0; PAGE_BYTES]);
                for block in 0..pages {
                    fill(&mut page, Dataset::page(block), content);
                    writer
                        .put(Dataset::key(block), LSN, Value::Image(&*page))
                        .await?;
                }
                let size = RelationSize {
                    blocks: pages,
                    generation: Lsn::INVALID,
                }
                .encode();
                let key = PostgresKey::RelationSize {
                    relation: RELATION,
                    fork: Fork::Main,
                };
                writer.put(key.encode(), LSN, Value::Image(&size)).await?;
                let directory = DatabaseDirectory {
                    is_own_tablespace: true,
                }
                .encode();
                let key = PostgresKey::DatabaseDirectory {
                    database: RELATION.database,
                    tablespace: RELATION.tablespace,
                };
                writer
                    .put(key.encode(), LSN, Value::Image(&directory))
                    .await?;
                let facts = CommitFacts {
                    readable_from: LSN,
                    last_lsn: LSN,
                    base_backup: None,
                };
                writer.commit(facts).await
            };
            // The two halves run side by side on this thread; sealing is done in between.
            let (written, ()) = futures_util::join!(write, uploads.run(InlineCpu));
            written.map_err(failed)?
        }
    };
    Ok(Dataset {
        tenant: tenant.id(),
        branch,
        pages,
    })
}
