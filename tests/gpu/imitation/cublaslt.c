/* libcublasLt: for each product there is one way. */
int cublasLtMatmulAlgoGetHeuristic(
    void *handle, void *product, void *a, void *b, void *c, void *d, void *wish, int room, void *found, int *count) {
  *count = 1; /* the caller's memory is zero, which is success and no workspace */
  return 0;
}
