# Builds of llama.cpp that corral has a use for: libllama and ggml, and not its command line helpers.
#
# llama-cpp-python forces LLAMA_BUILD_COMMON into CMake's cache as ON, so -DLLAMA_BUILD_COMMON=OFF on the
# command line is overruled. A normal variable of the same name shadows the cached one (policy CMP0126),
# and CMAKE_PROJECT_INCLUDE has this file read by project(), before llama.cpp's own lists are.
#
# Together with -DLLAVA_BUILD=OFF: 78 compile steps in 2 minutes instead of 193 in 9, on two cores.
set(LLAMA_BUILD_COMMON OFF)

# GCC 12 believes that loading a tile configuration reads 8 of its 64 bytes, and leaves the others unwritten: on
# a processor with AMX every prompt ends in an illegal instruction (github.com/ggml-org/llama.cpp/pull/26954).
# In that file, and there alone, stores are kept that look dead.
function(keep_tile_configuration)
    if(TARGET ggml-cpu)
        set_source_files_properties("${PROJECT_SOURCE_DIR}/src/ggml-cpu/amx/mmq.cpp" TARGET_DIRECTORY ggml-cpu
            PROPERTIES COMPILE_OPTIONS "-fno-dse;-fno-tree-dse")
    endif()
endfunction()
if(PROJECT_NAME STREQUAL "ggml" AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    cmake_language(DEFER CALL keep_tile_configuration)
endif()
