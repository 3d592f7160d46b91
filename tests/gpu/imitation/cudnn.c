/* libcudnn: every plan exists, needs no memory, and does nothing. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

size_t cudnnGetVersion(void) { return 91400; }
size_t cudnnGetCudartVersion(void) { return 13000; }
const char *cudnnGetErrorString(int e) { return "imitated"; }
int cudnnCreate(void **handle) { *handle = malloc(64); return 0; }
int cudnnBackendCreateDescriptor(int type, void **d) { *d = calloc(1, 64); return 0; }
int cudnnBackendDestroyDescriptor(void *d) { free(d); return 0; }
int cudnnBackendGetAttribute(void *d, int name, int type, int64_t room, int64_t *count, void *values) {
  int notes = name == 1303 || name == 1305; /* CUDNN_ATTR_ENGINE_NUMERICAL_NOTE, _BEHAVIOR_NOTE: none, so that none is refused */
  if (count) *count = !notes;
  int wide = type == 3 || type == 5 || type == 6; /* CUDNN_TYPE_INT64, _DOUBLE, _VOID_PTR */
  if (!notes && values && room > 0 && type != 15) memset(values, 0, wide ? 8 : 4); /* _BACKEND_DESCRIPTOR (15) stays as it is */
  return 0;
}
