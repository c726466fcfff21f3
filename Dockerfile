# The image of kuberay.yaml: Ray's own, of the version that constraints.txt pins, and this project as it is installed anywhere.
#   docker build --tag registry.example/aln:1 . && docker push registry.example/aln:1
FROM rayproject/ray:2.60.0-py311
COPY --chown=ray aln /home/ray/aln/aln
COPY --chown=ray search_spaces /home/ray/aln/search_spaces
COPY --chown=ray sweeps /home/ray/aln/sweeps
COPY --chown=ray pyproject.toml constraints.txt README.md LICENSE /home/ray/aln/
RUN pip install --no-cache-dir --constraint /home/ray/aln/constraints.txt --editable '/home/ray/aln[cluster]'
WORKDIR /home/ray/aln
