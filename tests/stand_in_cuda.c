/* Stands in for the driver's library in tests: the memory of the GPU is that of the process. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int device, context, stream;

static int is_ours(void *asked) { return asked == &stream; }

int cuInit(unsigned flags) { return flags ? 1 : 0; }
int cuDeviceGet(int *found, int number) { *found = number; return number ? 101 : 0; }
/* The identity's bytes are 0 to 15. A process that asks for it computes on the card: NVML's stand-in lists it then. */
int cuDeviceGetUuid_v2(unsigned char *found, int number) {
  const char *place = getenv("STAND_IN_NVML"), *bytes = getenv("STAND_IN_BYTES");
  char path[4096];
  for (int i = 0; i < 16; i++) found[i] = (unsigned char)i;
  if (!place) return number;
  snprintf(path, sizeof path, "%s/pid.%d", place, getpid());
  FILE *file = fopen(path, "w");
  if (file) fprintf(file, "%s", bytes ? bytes : "612000000"), fclose(file);
  return number;
}
int cuDeviceGetName(char *name, int length, int number) { strncpy(name, "Orin", length); return number; }
int cuDeviceGetAttribute(int *value, int attribute, int number) { *value = attribute == 75 ? 8 : 7; return number; }
int cuDriverGetVersion(int *version) { *version = 12060; return 0; }
int cuDevicePrimaryCtxRetain(void **found, int number) { *found = &context; return number; }
int cuCtxSetCurrent(void *asked) { return asked == &context ? 0 : 201; }
int cuStreamCreate(void **found, unsigned flags) { *found = &stream; return flags == 1 ? 0 : 1; }
int cuStreamSynchronize(void *asked) { return is_ours(asked) ? 0 : 400; }
int cuMemAlloc_v2(uint64_t *address, size_t size) {
  if (!size || getenv("STAND_IN_NO_MEMORY")) return size ? 2 : 1;
  *address = (uint64_t)(uintptr_t)malloc(size);
  return 0;
}
int cuMemFree_v2(uint64_t address) { free((void *)(uintptr_t)address); return 0; }
int cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t size, void *asked) {
  memcpy((void *)(uintptr_t)to, from, size);
  return is_ours(asked) ? 0 : 400;
}
int cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t size, void *asked) {
  memcpy(to, (const void *)(uintptr_t)from, size);
  return is_ours(asked) ? 0 : 400;
}
