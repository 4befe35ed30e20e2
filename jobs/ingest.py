"""Read the sources of a use case into versioned Iceberg tables.

ray job submit --address http://127.0.0.1:8265 --working-dir . -- python jobs/ingest.py use_case=saas_churn
"""

import hydra
from omegaconf import DictConfig

from raysaas import entry, lifecycle


@hydra.main(version_base="1.3", config_path=str(entry.packaged_conf()), config_name="config")
def main(cfg: DictConfig) -> None:
    """Compose ``conf/``, then run the verb."""
    entry.job("ingest", lifecycle.ingest_or_watch, cfg)


if __name__ == "__main__":
    entry.check_arguments()
    main()
