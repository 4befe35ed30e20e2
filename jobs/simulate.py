"""Write the files of a simulated SaaS under ``data_dir``: 10^4 rows or 10^8, by ``use_case.simulate.accounts``.

ray job submit --address http://127.0.0.1:8265 --working-dir . -- python jobs/simulate.py data_dir=/data
"""

import hydra
from omegaconf import DictConfig

from raysaas import entry, lifecycle


@hydra.main(version_base="1.3", config_path=str(entry.packaged_conf()), config_name="config")
def main(cfg: DictConfig) -> None:
    """Compose ``conf/``, then run the verb."""
    entry.job("simulate", lifecycle.simulate, cfg)


if __name__ == "__main__":
    entry.check_arguments()
    main()
