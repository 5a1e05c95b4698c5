export PYTHONPATH=/tmp/h6:/tmp/bpk OMP_NUM_THREADS=1
cd /tmp/h6; /work/main/.venv/bin/python -m pytest -p no:cacheprovider -q benchmarks "$@"
