/* libcublas: products that do nothing. */
#include <stdlib.h>

int cublasCreate_v2(void **handle) { *handle = malloc(64); return 0; }
int cublasDestroy_v2(void *handle) { free(handle); return 0; }
