"""The commands of the README that tests run on small data in place of the files they name."""

INSTALL = "pip install -c constraints.txt -e ."
INSTALL_TEST = 'pip install -c constraints.txt -e ".[test]"'
QUICKSTART = "accelerate launch recipes/angel.py"
_MEDIC = "path/to/medic_06Jul2012.txt"
NCBI = (
    "accelerate launch recipes/angel.py --config recipes/configs/ncbi.yaml --model scratch-quick "
    f"--corpus path/to/ncbi_disease --kb {_MEDIC}"
)
PREPARE = f"python recipes/prepare.py --corpus path/to/ncbi_disease --kb {_MEDIC} --output_dir prepared"
PRETRAIN = (
    f"accelerate launch recipes/pretrain.py --config recipes/configs/pretrain.yaml --model scratch-quick --kb {_MEDIC}"
)
LINK = (
    "accelerate launch --config_file recipes/accelerate/ddp.yaml recipes/link.py --linker runs/quickstart/linker "
    "--input abstracts.pubtator.gz --output linked --format pubtator"
)
PUBLISH = "accelerate launch recipes/angel.py --push_to_hub --hub_model_id user/name"
